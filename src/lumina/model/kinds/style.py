"""Blocks as GPT-2 and Phi-2 have them, mostly as frozen bases of adapters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from lumina.model.kinds.kind import Branches, Kind
from lumina.model.plain_tensors import into_residual, matrix
from lumina.model.spec import ModelSpec, StyleSpec
from lumina.model.tensors import ZEROS, Declared, Tensors, add, normal, remove

if TYPE_CHECKING:
    from torch import nn


class Styled(Kind):
    """Norms that shift, GELU layers, biases; of "phi" parallel branches."""

    name = "style"

    def words(self, spec: ModelSpec) -> list[str]:
        """The family."""
        return [f"blocks of {_style(spec).name}"]

    def no_graph(self, spec: ModelSpec) -> str:
        """A graph of it was never compared."""
        return f"it has blocks of {_style(spec).name} (block_style)"

    def declare(self, spec: ModelSpec, tensors: Tensors) -> None:
        """Biases beside every norm and matrix; GELU layers in place of SwiGLU."""
        style, width = _style(spec), spec.hidden_size
        inner = spec.intermediate_size
        for layer in range(spec.num_layers):
            block = f"backbone.blocks.{layer}"
            path = f"{block}.feedforward"
            remove(tensors, path)
            if style.parallel:
                remove(tensors, f"{block}.feedforward_norm")
            else:
                add(tensors, _bias(f"{block}.feedforward_norm", width, "hidden"))
            up, first = f"{path}.up.weight", normal(spec.init_std)
            down, last = f"{path}.down.weight", into_residual(spec)
            add(
                tensors,
                _bias(f"{block}.attention_norm", width, "hidden"),
                _bias(f"{block}.attention.out", width, "hidden"),
                matrix(up, (inner, width), ("ffn", "hidden"), first),
                _bias(f"{path}.up", inner, "ffn"),
                matrix(down, (width, inner), ("hidden", "ffn"), last),
                _bias(f"{path}.down", width, "hidden"),
            )
        add(tensors, _bias("backbone.norm", width, "hidden"))
        if style.parallel and not spec.tie_embeddings:
            add(tensors, _bias("objective.head", spec.padded_vocab_size, "vocab"))

    def attention(self, spec: ModelSpec, layer: int) -> nn.Module | None:
        """Attention with a bias behind it, and a part of each head rotated."""
        from lumina.model.styled import StyledAttention

        return StyledAttention(spec, layer)

    def feedforward(self, spec: ModelSpec, layer: int) -> nn.Module | None:
        """A GELU layer."""
        from lumina.model.styled import GeluFeedForward

        return GeluFeedForward(spec)

    def block(
        self, spec: ModelSpec, layer: int, branches: Callable[[], Branches]
    ) -> nn.Module | None:
        """A block with norms that shift."""
        from lumina.model.styled import ParallelBlock, ShiftedBlock

        kind = ParallelBlock if _style(spec).parallel else ShiftedBlock
        return kind(spec, branches())

    def objective(self, spec: ModelSpec, loss_chunk_bytes: int) -> nn.Module | None:
        """Scores with a bias of each token, where the family has them."""
        if not _style(spec).parallel or spec.tie_embeddings:
            return None
        from lumina.model.objective.biased import BiasedObjective

        return BiasedObjective(spec, loss_chunk_bytes)

    def finish(
        self, spec: ModelSpec, network: nn.Module, tensors: Mapping[str, Declared]
    ) -> None:
        """The last norm shifts, too."""
        from lumina.model.styled import ShiftedNorm

        norm = ShiftedNorm(spec.hidden_size, spec.norm_eps)
        network.get_submodule("backbone").add_module("norm", norm)


def _bias(path: str, size: int, axis: str) -> Declared:
    return Declared(f"{path}.bias", (size,), "bias", (axis,), ZEROS)


def _style(spec: ModelSpec) -> StyleSpec:
    assert spec.style is not None
    return spec.style


def plain(spec: ModelSpec) -> ModelSpec:
    """The shape with Lumina's own blocks."""
    return replace(spec, style=None)
