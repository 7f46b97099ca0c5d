"""Fewer key/value heads for a trained model (Ainslie et al., arXiv:2305.13245).

Neighbouring heads become their mean, so that generation keeps fewer keys and values.
The function changes; a short further training recovers most of what it costs.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec

_PER_HEAD = (
    ".attention.k.weight",
    ".attention.v.weight",
    ".attention.k.bias",
    ".attention.v.bias",
)


def pool_key_value_heads(
    spec: ModelSpec, tensors: dict[str, Tensor], num_kv_heads: int
) -> tuple[ModelSpec, dict[str, Tensor]]:
    """The shape and weights with `num_kv_heads` key/value heads.

    Args:
        spec: the shape of the weights.
        tensors: all logical tensors; left as they are.
        num_kv_heads: how many heads are left; each is the mean of as many neighbours.

    Raises:
        LuminaError: E002 for numbers that do not divide, and for latent attention.
    """
    if spec.mla_kv_rank:
        raise LuminaError(
            "E002",
            "latent attention (mla_kv_rank) has no key/value heads to pool",
            "leave out --num-kv-heads",
        )
    if num_kv_heads < 1 or spec.num_kv_heads % num_kv_heads:
        raise LuminaError(
            "E002",
            f"{spec.num_kv_heads} key/value heads do not pool into {num_kv_heads}",
            "name a number that divides them",
        )
    pooled = {}
    for name, tensor in tensors.items():
        per_head = name.endswith(_PER_HEAD) or (
            spec.qk_norm in ("rms_full", "l2") and name.endswith("k_norm.weight")
        )
        pooled[name] = _mean(tensor, spec, num_kv_heads) if per_head else tensor
    return replace(spec, num_kv_heads=num_kv_heads), pooled


def _mean(tensor: Tensor, spec: ModelSpec, num_kv_heads: int) -> Tensor:
    """[heads * n, ...] to [num_kv_heads * n, ...]: means over neighbouring heads."""
    group = spec.num_kv_heads // num_kv_heads
    rows = tensor.shape[0] // spec.num_kv_heads
    heads = tensor.unflatten(0, (num_kv_heads, group, rows))
    mean: Tensor = heads.float().mean(dim=1).to(tensor.dtype)
    return mean.flatten(0, 1).contiguous()
