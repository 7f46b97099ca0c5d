"""Networks from a resolved shape: the one place that puts modules together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from lumina.errors import LuminaError
from lumina.model.attention import Attention
from lumina.model.block import Block
from lumina.model.declared import declared
from lumina.model.kinds.kind import Branches, Kind
from lumina.model.kinds.table import kinds_of
from lumina.model.latent_attention import LatentAttention
from lumina.model.layers import FeedForward
from lumina.model.network import Network
from lumina.model.objective.language_model import LanguageModelObjective
from lumina.model.spec import ModelSpec
from lumina.model.transformer import Transformer

DEFAULT_LOSS_CHUNK_BYTES = 256 * 2**20


def build_network(
    spec: ModelSpec,
    *,
    attention: str = "sdpa",
    loss_chunk_bytes: int = DEFAULT_LOSS_CHUNK_BYTES,
    device: torch.device | str | None = None,
    seed: int | None = 0,
) -> Network:
    """A network with initial weights.

    Args:
        spec: the resolved shape.
        attention: attention backend.
        loss_chunk_bytes: most bytes of float32 logits held at a time.
        device: where it lives, the CPU when absent; on "meta" it has shapes only.
        seed: of the initial weights; None leaves them unset, to be loaded.
    """
    kinds = kinds_of(spec)
    with torch.device("meta"):
        network = Network(
            spec,
            kinds,
            _first(kinds, lambda kind: kind.backbone(spec, attention))
            or _transformer(spec, kinds, attention),
            _first(kinds, lambda kind: kind.objective(spec, loss_chunk_bytes))
            or LanguageModelObjective(spec, loss_chunk_bytes),
        )
        for kind in kinds:
            kind.finish(spec, network, declared(spec))
    _check_declared(network)
    device = torch.device(device if device is not None else "cpu")
    if device.type == "meta":
        return network
    network.to_empty(device=device)
    if seed is not None:
        return network.initialise(seed)
    network.reset_buffers()  # some are in no file
    return network


def _check_declared(network: Network) -> None:
    """Refuse a network that has other tensors than its kinds declare.

    Raises:
        LuminaError: E005.
    """
    built = dict(network.named_buffers()) | network.state_dict(keep_vars=True)
    found = {name: tuple(tensor.shape) for name, tensor in built.items()}
    expected = {name: one.shape for name, one in declared(network.spec).items()}
    if found == expected:
        return
    wrong = sorted(dict(found.items() ^ expected.items()))[0]
    raise LuminaError(
        "E005",
        f"the tensor {wrong} is {found.get(wrong, 'absent')} in the network and "
        f"{expected.get(wrong, 'absent')} in the declarations",
        "the `declare` of a kind of model names every tensor that its modules have",
    )


def _transformer(spec: ModelSpec, kinds: Sequence[Kind], attention: str) -> nn.Module:
    blocks = [_block(spec, kinds, layer) for layer in range(spec.num_layers)]
    recursion = _first(kinds, lambda kind: kind.recursion(spec))
    return Transformer(spec, kinds, blocks, recursion, attention)  # type: ignore[arg-type]


def _block(spec: ModelSpec, kinds: Sequence[Kind], layer: int) -> nn.Module:
    """The block of a layer: that of a kind, or a plain one."""

    def branches() -> Branches:
        latent = LatentAttention if spec.mla_kv_rank else Attention
        return Branches(
            _first(kinds, lambda kind: kind.attention(spec, layer))
            or latent(spec, layer),
            _first(kinds, lambda kind: kind.feedforward(spec, layer))
            or FeedForward(spec),
        )

    made = _first(kinds, lambda kind: kind.block(spec, layer, branches))
    return made or Block(spec, branches())


def _first(
    kinds: Sequence[Kind], make: Callable[[Kind], nn.Module | None]
) -> nn.Module | None:
    """What the first kind that has a module of its own makes."""
    for kind in kinds:
        if (module := make(kind)) is not None:
            return module
    return None
