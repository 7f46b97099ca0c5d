"""Frozen parameters that a codec holds in few bits (`lumina.ops.low_bits`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lumina.model.declared import declared
from lumina.model.layers import Linear
from lumina.model.moe import MoeFeedForward
from lumina.model.network import Network
from lumina.model.spec import ModelSpec
from lumina.model.tensors import Shape
from lumina.ops.low_bits.codec import Codec, Packed
from lumina.ops.low_bits.product import product
from lumina.ops.low_bits.wide import wide, wide_product

ROLES = ("matrix", "expert")
"""Of the tensors that few bits hold: neither embeddings, heads, routers nor norms."""


class _Piece(nn.Module):
    """The buffers that hold one logical tensor."""

    def __init__(self, codec: Codec, shape: Shape) -> None:
        super().__init__()
        self.codec, self.shape = codec, shape
        self.parts = tuple(codec.parts(shape))
        for name, (extent, dtype) in codec.parts(shape).items():
            self.register_buffer(name, torch.empty(extent, dtype=dtype))

    def packed(self) -> Packed:
        """What the buffers hold; it shares their memory."""
        tensors = {name: getattr(self, name) for name in self.parts}
        return Packed(self.codec.name, self.shape, tensors)


class StoredWeight(nn.Module):
    """A frozen parameter in few bits: one packed matrix for each logical tensor.

    It has buffers in place of a parameter, so that no optimizer, gradient or average
    knows of it. No declaration knows these buffers, for they are one tensor in another
    form.

    Args:
        codec: holds every piece.
        pieces: logical name -> shape, in their order along the outputs.
    """

    def __init__(self, codec: Codec, pieces: Mapping[str, Shape]) -> None:
        super().__init__()
        self.codec = codec
        self.names = tuple(pieces)
        self._pieces = {}
        for name, shape in pieces.items():
            piece = _Piece(codec, shape)
            self._pieces[name] = piece
            self.add_module(piece_of(name) if len(pieces) > 1 else "whole", piece)
        first, *_ = pieces.values()
        outputs = sum(shape[-2] for shape in pieces.values())
        self.shape: Shape = (*first[:-2], outputs, first[-1])
        self._exact: Callable[[str], Tensor] | None = None

    def packed(self, name: str) -> Packed:
        """What holds a logical tensor, by its name in files; it shares its memory."""
        return self._pieces[name].packed()

    @torch.no_grad()
    def fill(self, name: str, packed: Packed) -> None:
        """Take the value of a logical tensor.

        Raises:
            ValueError: for another codec or shape than the tensor's.
        """
        piece = self._pieces[name]
        if (packed.codec, packed.shape) != (self.codec.name, piece.shape):
            raise ValueError(
                f"{name} is {self.codec.name} of shape {piece.shape}, not "
                f"{packed.codec} of shape {packed.shape}"
            )
        for part, buffer in piece.named_buffers():
            buffer.copy_(packed.tensors[part])

    def wide(self, dtype: torch.dtype) -> Tensor:
        """The whole parameter in `dtype`, of which nothing is kept."""
        if self._exact is not None:
            device = next(self.buffers()).device
            parts = (self._exact(name).to(device, dtype) for name in self.names)
            return torch.cat(list(parts), dim=-2)
        return wide([piece.packed() for piece in self._pieces.values()], dtype)

    def multiplied(
        self, x: Tensor, offsets: Tensor | None = None, outputs: int | None = None
    ) -> Tensor:
        """The product with rows, as `lumina.ops.low_bits.product.product`.

        Args:
            x: the rows.
            offsets: of experts.
            outputs: only the first of them; the end of a piece.
        """
        if self._exact is not None:
            whole = self.wide(x.dtype)
            chosen = whole if outputs is None else whole[..., :outputs, :]
            return wide_product(x, chosen, offsets)
        return product(x, self.first(outputs), offsets)

    def first(self, outputs: int | None) -> list[Packed]:
        """The pieces that give the first outputs, or all; their memory is shared."""
        chosen: list[Packed] = []
        for piece in self._pieces.values():
            if outputs is not None and outputs <= sum(p.shape[-2] for p in chosen):
                break
            chosen.append(piece.packed())
        assert outputs in (None, sum(one.shape[-2] for one in chosen))
        return chosen


@contextmanager
def as_in_files(
    stored: Iterable[StoredWeight], read: Callable[[str], Tensor]
) -> Iterator[None]:
    """Let stored weights be what they were before they were in few bits.

    Each product reads its matrix anew, so that memory never holds two of them. For
    uncompiled forward passes in evaluation mode.

    Args:
        stored: the weights.
        read: logical name -> the tensor as it is in files.
    """
    weights = list(stored)
    for one in weights:
        one._exact = read
    try:
        yield
    finally:
        for one in weights:
            one._exact = None


def piece_of(logical: str) -> str:
    """The short name of a logical tensor, such as q or gate."""
    return logical.removesuffix(".weight").rpartition(".")[2]


def storable(spec: ModelSpec, network: Network) -> dict[str, dict[str, Shape]]:
    """The parameters that few bits can hold: the matrices of linear layers and experts.

    Args:
        spec: the shape.
        network: of that shape.

    Returns:
        Parameter -> its logical tensors and their shapes.
    """
    found: dict[str, dict[str, Shape]] = {}
    tensors = declared(spec)
    for path, module in network.named_modules():
        if not isinstance(module, Linear | MoeFeedForward):
            continue
        for name, _ in module.named_parameters(prefix=path, recurse=False):
            if tensors[name].role in ROLES:
                logical = tensors[name].logical()
                found[name] = {piece: shape for piece, (shape, _) in logical.items()}
    return found


def store(network: Network, codecs: Mapping[str, Codec]) -> dict[str, StoredWeight]:
    """Put stored weights in the place of parameters.

    Args:
        network: is changed in place; the new buffers have no values yet.
        codecs: parameter -> the codec that holds it; of those `storable` lists.

    Returns:
        Parameter -> its stored weight.
    """
    shapes = storable(network.spec, network)
    made = {}
    for name, codec in codecs.items():
        path, _, leaf = name.rpartition(".")
        module = network.get_submodule(path)
        with torch.device(module.get_parameter(leaf).device):
            made[name] = StoredWeight(codec, shapes[name])
        module.hold(leaf, made[name])  # type: ignore[operator]
    return made


def stored_weights(network: nn.Module) -> Iterator[tuple[str, StoredWeight]]:
    """The stored weights of a network, each with the path of its module."""
    for path, module in network.named_modules():
        if isinstance(module, StoredWeight):
            yield path, module


def stored_pieces(network: nn.Module) -> dict[str, Packed]:
    """Every logical tensor in few bits, by its name in files; memory is shared."""
    return {
        name: stored.packed(name)
        for _, stored in stored_weights(network)
        for name in stored.names
    }


def declared_tensors(network: Network) -> dict[str, Tensor]:
    """The parameters and saved buffers that are not in few bits, by name."""
    known = declared(network.spec)
    tensors = network.state_dict(keep_vars=True)
    return {name: one for name, one in tensors.items() if name in known}
