"""The matrices that adapters can stand on, under their names in files.

In memory query, key and value are one matrix, and so are gate and up; they are adapted
apart, as other programs do. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeVar

from lumina.errors import LuminaError
from lumina.model.tensors import Declared, Shape

V = TypeVar("V")

PIECES = {
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "out": "o_proj",
    "q_down": "q_a_proj",
    "q_up": "q_b_proj",
    "kv_down": "kv_a_proj_with_mqa",
    "kv_up": "kv_b_proj",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
    "head": "lm_head",
}
"""Last part of a logical name -> the name of the piece; others keep their own."""

_QUERIES = ("q_proj", "q_a_proj", "q_b_proj")
_VALUES = ("v_proj", "kv_b_proj")
_ATTENTION = (*_QUERIES, "k_proj", *_VALUES, "kv_a_proj_with_mqa", "o_proj")

PRESETS: dict[str, tuple[str, ...]] = {
    "minimal": (*_QUERIES, *_VALUES),
    "balanced": _ATTENTION,
    "full": (*_ATTENTION, "gate_proj", "up_proj", "down_proj"),
}
"""Preset -> pieces; latent attention has others in place of query, key and value."""

ALL = "all-linear"
"""The target that means every matrix but the heads."""

_ROLES = ("matrix", "expert", "head")


@dataclass(frozen=True)
class Site:
    """A matrix of files, or a stack of them, one for each expert.

    Attributes:
        path: of the module that holds it.
        matrix: the name of its tensor within that module.
        piece: what it is called in files, such as q_proj.
        logical: its logical name.
        shape: [out, in], or [experts, out, in].
        axes: the name of each dimension.
        begin: its first row in the module's tensor.
        head: whether it gives the scores of tokens.
        used: as of `Declared`.
    """

    path: str
    matrix: str
    piece: str
    logical: str
    shape: Shape
    axes: tuple[str, ...]
    begin: int
    head: bool
    used: tuple[int, int]

    @property
    def end(self) -> int:
        """The row after its last one."""
        return self.begin + self.shape[-2]

    @property
    def short(self) -> str:
        """Its logical name without the ending `.weight`."""
        return self.logical.removesuffix(".weight")

    def matches(self, pattern: str) -> bool:
        """Whether a pattern is the name of its piece, or a glob that fits its name."""
        inner = self.short.split(".", 1)[-1]
        return (
            pattern == self.piece
            or fnmatchcase(self.short, pattern)
            or fnmatchcase(inner, pattern)
        )


def sites(declared: Iterable[Declared]) -> Iterator[Site]:
    """Every matrix that an adapter can stand on."""
    for one in declared:
        if one.role not in _ROLES or one.kind != "parameter" or len(one.shape) < 2:
            continue
        begin = 0
        for logical, (shape, info) in one.logical().items():
            path, _, matrix = one.name.rpartition(".")
            leaf = logical.removesuffix(".weight").rpartition(".")[2]
            yield Site(
                path=path,
                matrix=matrix,
                piece=PIECES.get(leaf, leaf),
                logical=logical,
                shape=shape,
                axes=info.axes,
                begin=begin,
                head=one.role == "head",
                used=one.used,
            )
            begin += shape[-2]


def expanded(targets: Sequence[str]) -> tuple[str, ...]:
    """The targets with presets replaced by the pieces that they stand for."""
    return tuple(
        piece for target in targets for piece in PRESETS.get(target, (target,))
    )


def chosen(declared: Iterable[Declared], targets: Sequence[str]) -> list[Site]:
    """The matrices that targets name.

    Args:
        declared: the tensors of the model.
        targets: presets, names of pieces (`q_proj`), globs over names in files without
            `.weight`, whole or without their first part, or `all-linear`.

    Raises:
        LuminaError: E005 for a target that names no matrix of the model.
    """
    there = list(sites(declared))
    preset = {piece for name in PRESETS if name in targets for piece in PRESETS[name]}
    wanted = expanded(targets)
    found = [
        site
        for site in there
        if any(site.matches(one) or (one == ALL and not site.head) for one in wanted)
    ]
    lost = [
        one
        for one in targets
        if one not in PRESETS
        and one != ALL
        and not any(site.matches(one) for site in there)
    ]
    if lost or not found:
        known = ", ".join(sorted({site.piece for site in there} - preset))
        raise LuminaError(
            "E005",
            f"no matrix of the model is named by {' '.join(lost or targets)}",
            f"targets are {', '.join((*PRESETS, ALL))}, patterns over names in files "
            f"such as 'blocks.0.attention.*', and here {known or 'none besides'}",
        )
    return found


def own_or(values: Mapping[str, V], site: Site, otherwise: V) -> V:
    """The value of the first pattern that a matrix matches."""
    return next((v for k, v in values.items() if site.matches(k)), otherwise)
