"""The small layers: linear, embedding, norms, SwiGLU.

Each casts its weight to the type of its input, so that weights may be float32 masters
or half-precision copies; a cast to the same type is nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.model.spec import ModelSpec
from lumina.ops.norm.fused import rms_norm

if TYPE_CHECKING:
    from lumina.model.adapters.layer import Adapters


class Linear(nn.Module):
    """A matrix, `weight` [out, in], and a `bias` [out] or None.

    Values come from `initial_value`.

    Attributes:
        product: what multiplies the input [..., in] by the matrix, in its type, where
            that is not `torch.nn.functional.linear`.
        adapters: what changes the result, or None.
        stored: the frozen matrix in few bits (`lumina.model.stored`), where it is held
            so; then `weight` is None.
    """

    product: Callable[[Tensor, Tensor], Tensor] | None = None

    def __init__(self, inputs: int, outputs: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.stored: Any = None
        self.adapters: Adapters | None = None

    def hold(self, leaf: str, stored: nn.Module) -> None:
        """Take a matrix in few bits in place of the parameter `leaf`, the weight."""
        self.register_parameter(leaf, None)
        self.stored = stored

    def forward(self, x: Tensor, rows: int | None = None) -> Tensor:
        """[..., in] to [..., out], or to its first `rows`."""
        if self.adapters is None:
            return self.base(x, rows)
        if (y := self._at_once(x, rows)) is not None:
            return y
        return self.adapters(x, self, partial(self.base, rows=rows))  # type: ignore[no-any-return]

    def _at_once(self, x: Tensor, rows: int | None) -> Tensor | None:
        """The base and narrow pairs beside it in one operator, while training.

        None where the base trains, or an adapter is something else than such pairs.
        """
        assert self.adapters is not None
        stored, weight = self.stored, self.weight
        trains = stored is None and weight.requires_grad
        if trains or self.product is not None or not self.training:
            return None
        outputs = rows or (weight if stored is None else stored).shape[0]
        if not (pairs := self.adapters.pairs(outputs)):
            return None
        # Only here, since operators load torch's compiler, which takes seconds.
        from lumina.ops.low_bits.adapted import adapted_product

        base = weight[:outputs] if stored is None else stored.first(rows)
        y = adapted_product(x, base, pairs)
        return y if self.bias is None else y + self.bias[:outputs].to(y.dtype)

    def base(self, x: Tensor, rows: int | None = None) -> Tensor:
        """The same without adapters."""
        bias: Tensor | None = self.bias
        if rows is not None:
            bias = None if bias is None else bias[:rows]
        bias = None if bias is None else bias.to(x.dtype)
        if self.stored is not None:
            y: Tensor = self.stored.multiplied(x, outputs=rows)
            return y if bias is None else y + bias
        weight: Tensor = self.weight if rows is None else self.weight[:rows]
        weight = weight.to(x.dtype)
        if self.product is None:
            return F.linear(x, weight, bias)
        product = self.product(x, weight)
        return product if bias is None else product + bias

    def dense(self, matrix: str = "weight") -> Tensor:
        """The matrix [out, in] without adapters; of one in few bits, in float32."""
        if self.stored is not None:
            return self.stored.wide(torch.float32)  # type: ignore[no-any-return]
        return self.weight

    def bias_of(self, matrix: str) -> Tensor | None:
        """What is added after multiplying by the matrix, [out], or None."""
        return self.bias

    def matrix(self) -> Tensor:
        """The matrix [out, in] as its adapters change it; differentiable."""
        if self.adapters is None:
            return self.dense()
        return self.adapters.changed(self.dense(), self)


class Embedding(nn.Module):
    """Token vectors, `weight` [padded vocabulary, D]."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))

    def forward(self, input_ids: Tensor) -> Tensor:
        """[B, S] int64 to [B, S, D] in the type of the weight."""
        return F.embedding(input_ids, self.weight)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation of the last dimension, scaled by channel.

    Attributes:
        function: what computes it, where that is another kernel.
    """

    function: Callable[[Tensor, Tensor, float], Tensor] | None = None

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D]."""
        return (self.function or rms_norm)(x, self.weight, self.eps)


class LayerNorm(nn.Module):
    """Layer normalisation with scale and shift, in float32 whatever comes in."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] to [..., D] float32."""
        weight, bias = self.weight.float(), self.bias.float()
        return F.layer_norm(x.float(), weight.shape, weight, bias, self.eps)


class ProjectionNorm(RMSNorm):
    """RMSNorm over all heads together, as OLMoE's (arXiv:2409.02060).

    `weight` [heads * head_dim].
    """

    def forward(self, x_bshd: Tensor) -> Tensor:
        """[B, S, heads, head_dim] to the same."""
        return super().forward(x_bshd.flatten(2)).view(x_bshd.shape)


class HeadScale(nn.Module):
    """L2 normalisation of each head, with one learned scale a head (`weight` [heads]).

    The vector is brought to length sqrt(head_dim), not 1, so that a scale of one gives
    the scores 1 / sqrt(head_dim) is meant for (Henry et al., 2020, arXiv:2010.04245,
    learn one scale for the scores; here queries and keys carry one each).
    """

    def __init__(self, heads: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(heads))
        self.eps = eps

    def forward(self, x_bshd: Tensor) -> Tensor:
        """[B, S, heads, head_dim] to the same."""
        unscaled = F.rms_norm(x_bshd, (x_bshd.shape[-1],), None, self.eps)
        return unscaled * self.weight.to(x_bshd.dtype)[:, None]


class FeedForward(nn.Module):
    """SwiGLU (Shazeer, 2020, arXiv:2002.05202): down(silu(gate x) * up x).

    Args:
        width: inner width, where it is not `spec.intermediate_size`.

    Attributes:
        activation: makes the product of [..., 2M], where that is another kernel.
    """

    activation: Callable[[Tensor], Tensor] | None = None

    def __init__(self, spec: ModelSpec, width: int | None = None) -> None:
        super().__init__()
        width = width or spec.intermediate_size
        self.gate_up = Linear(spec.hidden_size, 2 * width)
        self.down = Linear(width, spec.hidden_size)

    def forward(self, x_bsd: Tensor) -> Tensor:
        """[B, S, D] to [B, S, D]."""
        gate_up = self.gate_up(x_bsd)
        if self.activation is not None:
            return self.down(self.activation(gate_up))  # type: ignore[no-any-return]
        gate, up = gate_up.chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)  # type: ignore[no-any-return]
