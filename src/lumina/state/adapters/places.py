"""Which logical weight a module in an adapter's folder stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lumina.model.declared import logical_shapes
from lumina.model.spec import ModelSpec
from lumina.state.huggingface.formats import FORMATS, Format, fits
from lumina.state.huggingface.names import EMBEDDING, HEAD, Entry, entries

FUSED = ("gate_up_proj", "down_proj")
"""The matrices of all experts of a layer that transformers 5 holds as one each."""


@dataclass(frozen=True)
class Place:
    """A matrix that a module of a folder is.

    Attributes:
        module: the module's path in transformers, or Lumina's own path where no family
            of transformers holds the model.
        logical: the logical weight.
        shape: [outputs, inputs] of the matrix as the folder has it.
        expert: which of the logical weight's experts it is; None: all of it.
    """

    module: str
    logical: str
    shape: tuple[int, ...]
    expert: int | None = None


@dataclass(frozen=True)
class Places:
    """All matrices of a model that an adapter may change.

    Attributes:
        format: the family of transformers whose names a written folder has; None where
            no family holds the model.
        by_module: every name under which a folder may have a matrix.
        written: the names of a written folder; experts are not among them.
        experts: module that holds the experts of a layer -> the logical weights of the
            three matrices, by "gate", "up" and "down".
    """

    format: Format | None
    by_module: dict[str, Place]
    written: dict[str, Place]
    experts: dict[str, dict[str, str]]


def places(spec: ModelSpec) -> Places:
    """The matrices of a model, by the names of the families that hold it."""
    rows = (
        [] if spec.parts is not None else [f for f in FORMATS.values() if fits(spec, f)]
    )
    if not rows:
        return _own(spec)
    found: dict[str, Place] = {}
    experts: dict[str, dict[str, str]] = {}
    for row in rows:
        for fused in (False, True):  # alike where there are no experts
            found |= _matrices(entries(spec, row, fused=fused), experts)
    written = _matrices(entries(spec, rows[0], fused=True), {})
    return Places(rows[0], found, written, experts)


def _matrices(
    table: Iterable[Entry], experts: dict[str, dict[str, str]]
) -> dict[str, Place]:
    """The matrices among a folder's tensors; stacks of experts go into `experts`."""
    found = {}
    for entry in table:
        module, _, leaf = entry.name.rpartition(".")
        if leaf in FUSED:
            part = entry.logical.rpartition(".")[2]
            experts.setdefault(module, {})[part] = entry.logical
        elif leaf == "weight" and len(entry.shape) == 2:
            place = Place(module, entry.logical, entry.shape, entry.expert)
            found[module] = place
    return found


def _own(spec: ModelSpec) -> Places:
    """The matrices of a model that no family holds, by Lumina's own names."""
    found = {}
    for name, shape in logical_shapes(spec).items():
        module = name.removesuffix(".weight")
        if len(shape) >= 2 and not name.endswith((".load", ".selection_bias")):
            cut = (spec.vocab_size, *shape[1:]) if name in (EMBEDDING, HEAD) else shape
            found[module] = Place(module, name, cut)
    return Places(None, found, found, {})
