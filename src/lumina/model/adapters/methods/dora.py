"""DoRA: direction by LoRA, length of each row apart (Liu et al., arXiv:2402.09353)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.model.adapters.method import Asked, Leaf, Tensors
from lumina.model.adapters.methods.lora import Lora
from lumina.model.adapters.sites import Site
from lumina.model.adapters.table import register
from lumina.model.tensors import ONES


class Dora(Lora):
    """Rows of W + scale * B A, brought to the learned lengths `magnitude` [out].

    The lengths that they are divided by count as constants in the backward pass
    (section 4.3 of the paper).
    """

    name = "dora"
    words = "DoRA"
    needs_base = True
    starts_from_base = True

    def leaves(
        self, site: Site, rank: int, options: Mapping[str, Any]
    ) -> tuple[Leaf, ...]:
        """A, B, and the length of each row."""
        shape, axes = site.shape[:-1], site.axes[:-1]
        magnitude = Leaf("magnitude", shape, axes, ONES)
        return (*super().leaves(site, rank, options), magnitude)

    def start(
        self, tensors: Tensors, scale: float, base: Tensor, held: Tensor
    ) -> dict[str, Tensor]:
        """The lengths of the base's rows as held, so that nothing changes at first."""
        return {"magnitude": torch.linalg.vector_norm(held.float(), dim=-1)}

    def delta(self, tensors: Tensors, scale: float, base: Tensor | None) -> Tensor:
        """What brings W to its new rows."""
        assert base is not None
        turned = base + super().delta(tensors, scale, None)
        length = torch.linalg.vector_norm(turned.detach(), dim=-1)
        factor = tensors["magnitude"].float() / length
        changed: Tensor = factor.unsqueeze(-1) * turned - base
        return changed

    def change(self, asked: Asked) -> Tensor:
        """(f - 1) W x + f * scale * B A x, where f is length by length.

        The base's own output serves as W x, so that dropout acts on A's input alone.
        Experts multiply by the dense change: their rows differ in f.
        """
        tensors = asked.tensors
        if tensors["a"].ndim > 2:
            return super(Lora, self).change(asked)
        factor = tensors["magnitude"] / _lengths(asked)
        factor = factor.to(asked.y.dtype)
        of_base = asked.y if asked.bias is None else asked.y - asked.bias.to(asked.y)
        return (factor - 1) * of_base + factor * super().change(asked)


@torch.no_grad()
def _lengths(asked: Asked) -> Tensor:
    """The lengths [out] of the rows of W + s B A, without that matrix: float32.

    Their squares are |W|^2 + 2 s <W A^T, B> + s^2 <B A A^T, B>, row by row.
    """
    a, b = asked.tensors["a"].float(), asked.tensors["b"].float()
    base = asked.base()
    square = torch.linalg.vector_norm(base, dim=-1, dtype=torch.float32).square()
    crossed = (base.float() @ a.mT * b).sum(-1)
    own = (b @ (a @ a.mT) * b).sum(-1)
    lengths: Tensor = (square + 2 * asked.scale * crossed + asked.scale**2 * own).sqrt()
    return lengths


register(Dora())
