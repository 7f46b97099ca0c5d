"""What the tensors of a network are called in files, and what they are.

In memory some matrices are fused (queries, keys and values; gate and up), for fewer and
larger products. In files, in optimizers' eyes and in other formats they are separate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina.model.spec import ModelSpec
from lumina.model.tensors import TensorInfo

if TYPE_CHECKING:
    from lumina.model.network import Network
    from lumina.model.registry import Part


@dataclass(frozen=True)
class FusedPieces:
    """How a fused parameter divides into logical tensors.

    Attributes:
        dim: the dimension that is divided.
        names: full logical names, in order.
        sizes: extent of each along `dim`.
    """

    dim: int
    names: tuple[str, ...]
    sizes: tuple[int, ...]


def fused_pieces(network: Network) -> dict[str, FusedPieces]:
    """The fused parameters of a network; all others are logical as they are."""
    spec = network.spec
    found = {}
    for name, parameter in network.named_parameters():
        stem, _, leaf = name.rpartition(".")
        if _owner(network, name) is not None:
            continue
        if stem.endswith(".attention.qkv"):  # its weight, and its bias if it has one
            stem = stem.removesuffix(".qkv")
            sizes = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
            found[name] = FusedPieces(
                0,
                tuple(f"{stem}.{part}.{leaf}" for part in "qkv"),
                tuple(heads * spec.head_dim for heads in sizes),
            )
        elif name.endswith((".feedforward.gate_up.weight", ".shared.gate_up.weight")):
            stem = stem.removesuffix(".gate_up")
            half = parameter.shape[0] // 2
            names = (f"{stem}.gate.weight", f"{stem}.up.weight")
            found[name] = FusedPieces(0, names, (half, half))
        elif leaf == "gate_up":
            half = parameter.shape[1] // 2
            found[name] = FusedPieces(1, (f"{stem}.gate", f"{stem}.up"), (half, half))
    return found


def tensor_info(network: Network) -> dict[str, TensorInfo]:
    """Role and axes of every logical parameter and persistent buffer."""
    pieces = fused_pieces(network)
    found: dict[str, TensorInfo] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        owner = _owner(network, name)
        if owner is not None:
            from lumina.model.parts import part_info

            found[name] = part_info(*owner, tensor)
            continue
        for logical in pieces[name].names if name in pieces else (name,):
            found[logical] = standard_info(logical, network.spec)
    return found


def _owner(network: Network, name: str) -> tuple[Part, str] | None:
    """The registered part that a tensor is in: its names mean what it says."""
    if network.spec.parts is None:
        return None
    from lumina.model.parts import owner

    return owner(network, name)


_BY_ENDING: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (".position_embedding.weight", "embedding", ("position", "hidden")),
    (".puzzle_embedding.weight", "puzzle", ("puzzle", "hidden")),
    ("embedding.weight", "embedding", ("vocab", "hidden")),
    (".embedding_norm.bias", "bias", ("hidden",)),
    ("head.weight", "head", ("vocab", "hidden")),
    (".attention.q.weight", "matrix", ("query", "hidden")),
    (".attention.k.weight", "matrix", ("key_value", "hidden")),
    (".attention.v.weight", "matrix", ("key_value", "hidden")),
    (".attention.q.bias", "bias", ("query",)),
    (".attention.k.bias", "bias", ("key_value",)),
    (".attention.v.bias", "bias", ("key_value",)),
    (".attention.q_down.weight", "matrix", ("query_rank", "hidden")),
    (".attention.q_up.weight", "matrix", ("query", "query_rank")),
    (".attention.kv_down.weight", "matrix", ("latent", "hidden")),
    (".attention.kv_up.weight", "matrix", ("key_value", "key_value_rank")),
    (".attention.q_latent_norm.weight", "norm", ("query_rank",)),
    (".attention.kv_latent_norm.weight", "norm", ("key_value_rank",)),
    (".feedforward.gate.weight", "matrix", ("ffn", "hidden")),
    (".feedforward.up.weight", "matrix", ("ffn", "hidden")),
    (".feedforward.down.weight", "matrix", ("hidden", "ffn")),
    (".feedforward.shared.gate.weight", "matrix", ("ffn", "hidden")),
    (".feedforward.shared.up.weight", "matrix", ("ffn", "hidden")),
    (".feedforward.shared.down.weight", "matrix", ("hidden", "ffn")),
    (".feedforward.router.weight", "router", ("expert", "hidden")),
    (".recursion.router.weight", "router", ("recursion", "hidden")),
    (".recursion.load", "buffer", ("recursion",)),
    (".depth.router.weight", "router", ("choice", "hidden")),
    (".depth.predictor.weight", "router", ("choice", "hidden")),
    (".depth.predictor.bias", "router", ("choice",)),
    (".feedforward.gate", "expert", ("expert", "ffn", "hidden")),
    (".feedforward.up", "expert", ("expert", "ffn", "hidden")),
    (".feedforward.down", "expert", ("expert", "hidden", "ffn")),
    (".feedforward.load", "buffer", ("expert",)),
    # Like a router, the halting head decides in float32.
    (".halting.weight", "router", ("choice", "hidden")),
    (".halting.bias", "router", ("choice",)),
    (".h_init", "buffer", ("hidden",)),
    (".l_init", "buffer", ("hidden",)),
    (".feedforward.selection_bias", "buffer", ("expert",)),
)


def standard_info(name: str, spec: ModelSpec) -> TensorInfo:
    """Role and axes of a tensor in a model without registered parts, by its name."""
    if name.startswith("objective.heads."):
        return TensorInfo("head", ("vocab", "hidden"))
    if name.endswith(".attention.out.weight"):
        values = "value" if spec.mla_kv_rank else "query"
        return TensorInfo("matrix", ("hidden", values))
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        query, key = {
            "rms": ("head_dim", "head_dim"),
            "rms_full": ("query", "key_value"),
            "l2": ("heads", "kv_heads"),
        }[spec.qk_norm]
        return TensorInfo("norm", (query if name.endswith("q_norm.weight") else key,))
    if name.endswith("norm.weight") and "latent" not in name:
        return TensorInfo("norm", ("hidden",))
    for ending, role, axes in _BY_ENDING:
        if name.endswith(ending):
            return TensorInfo(role, axes)
    raise KeyError(f"no role is known for the tensor {name}")
