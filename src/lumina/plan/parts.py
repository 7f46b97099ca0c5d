"""What registered parts cost: parameters, operations, memory.

Operations are the products with parameters, and what the part says of the rest. Memory
is measured: the part runs once without values, and what autograd would keep is added
up.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.model.registry import held_part
from lumina.model.spec import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

INSIDE = ("block", "attention", "feedforward")


def own_attention(spec: ModelSpec) -> int:
    """Layers whose attention is Lumina's, and so looks at all earlier tokens."""
    parts = spec.parts
    if parts is None:
        return spec.num_layers
    if parts.backbone:
        return 0
    layers = range(spec.num_layers)
    return sum(
        not parts.at("block", i) and not parts.at("attention", i) for i in layers
    )


def extra_flops(spec: ModelSpec) -> float:
    """Operations of a token, forward and backward, that no parameter has a part in.

    The sum of the parts' `extra_flops(spec)` over their layers; a part without one
    counts its products with parameters alone.
    """
    if spec.parts is None:
        return 0.0
    total = 0.0
    for (kind, name), layers in spec.parts.used().items():
        hook = held_part(kind, name, spec.parts.plugins).hook("extra_flops")
        total += layers * float(hook(spec)) if hook is not None else 0.0
    return total


def kept_by_part(
    spec: ModelSpec, kind: str, layer: int, tokens: int, element: int
) -> int:
    """Bytes that a part keeps for the backward pass.

    Args:
        layer: the block it is in; for a backbone any.
        tokens: positions of the forward pass, in rows of `spec.seq_length`.
        element: bytes of a value in the compute type.

    Raises:
        LuminaError: E005 where it cannot run without values and says nothing itself.
    """
    assert spec.parts is not None
    name = spec.parts.backbone if kind == "backbone" else spec.parts.at(kind, layer)
    part = held_part(kind, name, spec.parts.plugins)
    hook = part.hook("kept_bytes")
    if hook is not None:
        return int(hook(spec, tokens, element))
    one = _measured(spec, part.cls, kind, name, layer, element)
    return math.ceil(one * tokens / spec.seq_length)


@lru_cache(maxsize=64)
def _measured(
    spec: ModelSpec, cls: type, kind: str, name: str, layer: int, element: int
) -> int:
    """Bytes of one row, from a forward pass without values."""
    import torch

    dtype = torch.bfloat16 if element == 2 else torch.float32
    try:
        with torch.device("meta"):
            module, arguments = _call(spec, kind, name, layer, dtype)
            return _saved_bytes(module, arguments)
    except LuminaError:
        raise
    except Exception as error:
        problem = (str(error) or "no message").splitlines()[0]
        raise LuminaError(
            "E005",
            f"the memory of the {kind} {name} is not known: it does not run without "
            f"values ({type(error).__name__}: {problem})",
            "mend it (--debug shows where), or give the class a static method "
            "kept_bytes(spec, tokens, element)",
        ) from error


def _call(
    spec: ModelSpec, kind: str, name: str, layer: int, dtype: Any
) -> tuple[nn.Module, tuple[Any, ...]]:
    """The part and what it is called with, for one row that is one document."""
    import torch

    from lumina.batch import Batch
    from lumina.model.context import BlockContext
    from lumina.model.parts import build_part
    from lumina.ops.attention.dispatch import Pattern

    length = spec.seq_length
    if kind == "backbone":
        backbone: Any = build_part(spec, kind, name, "sdpa")
        backbone.compute_dtype = dtype
        return backbone.to(dtype), (
            Batch.from_rows(torch.zeros(1, length, dtype=torch.int64)),
        )
    x = torch.empty(1, length, spec.hidden_size, dtype=dtype, requires_grad=True)
    tables = torch.empty(1, length, 1, spec.rotary_dim // 2)
    flags = torch.ones(1, length, dtype=torch.bool)
    context = BlockContext(tables, tables, Pattern("sdpa"), flags, starts=flags)
    return build_part(spec, kind, name, layer).to(dtype), (x, context)


def _saved_bytes(module: nn.Module, arguments: tuple[Any, ...]) -> int:
    """Bytes of what autograd keeps, but for the parameters and the input itself."""
    import torch

    given = [*module.parameters(), *(a for a in arguments if torch.is_tensor(a))]
    known = {tensor.untyped_storage()._cdata for tensor in given}
    saved: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    module.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        # Held until counted: a freed storage would give its address to another.
        output = module(*arguments)
    total = sum(
        tensor.untyped_storage().nbytes()
        for key, tensor in saved.items()
        if key not in known
    )
    del output
    return total


def parts_of(spec: ModelSpec, layer: int) -> dict[str, str]:
    """Kind -> name of the registered parts in a layer."""
    if spec.parts is None:
        return {}
    found = {kind: spec.parts.at(kind, layer) for kind in INSIDE}
    return {kind: name for kind, name in found.items() if name}
