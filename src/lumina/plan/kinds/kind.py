"""The protocol of a kind of model in planning: from options to its shape, and back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lumina.model.spec import ModelSpec

if TYPE_CHECKING:
    from lumina.config import Config

VOCAB_MULTIPLE = 64
"""Rows of the embedding and the head are padded to this (tensor cores like it)."""


@dataclass(frozen=True)
class Known:
    """What is known of the data when a shape is resolved.

    Attributes:
        vocab_size: tokens that get a logit.
        rows: rows the embedding needs before padding.
        num_puzzles: identifiers of the puzzles, for a model of puzzles.
    """

    vocab_size: int
    rows: int
    num_puzzles: int


class Planned:
    """A kind of model, as options describe it.

    Attributes:
        field: of `ModelSpec`, which holds what this kind adds.
        alone: the kinds further down the table have no part in such a model.
        switch: the option that switches it on, if one does.
        live: its options that change no tensor: a run that goes on may change them.
        shapeless: its options that a run may choose other than the weights that it
            begins with have them.
    """

    field: str = ""
    alone: bool = False
    switch: str = ""
    live: tuple[str, ...] = ()
    shapeless: tuple[str, ...] = ()

    def chosen(self, config: Config) -> bool:
        """Whether the options ask for this kind."""
        raise NotImplementedError

    def borrows(self, config: Config) -> bool:
        """Whether it may begin with parts of a language model that is of no kind."""
        return False

    def unfit(self, spec: ModelSpec) -> tuple[str, str] | None:
        """Why it cannot begin with weights, and what to do; None: it can.

        Args:
            spec: the shape of the weights.
        """
        return None

    def rate(self, spec: ModelSpec) -> tuple[float, str] | None:
        """The factor on a learning rate that was meant for a model without it, and why.

        Args:
            spec: a shape of this kind.
        """
        return None

    def resolve(self, config: Config, spec: ModelSpec, known: Known) -> ModelSpec:
        """The shape with what this kind adds.

        Args:
            config: the options.
            spec: the shape so far, with the kinds before this one in the table.
            known: what the data says.

        Raises:
            LuminaError: E002 or E005 for options that give no such model.
        """
        raise NotImplementedError

    def options(self, spec: ModelSpec) -> dict[str, Any]:
        """The options that give what this kind adds, or switch it off.

        Raises:
            LuminaError: E002 for a shape that options cannot give.
        """
        raise NotImplementedError


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple


def given_or(asked: float | None, usual: float) -> float:
    """The value that was given, zero included, or the usual one."""
    return usual if asked is None else asked
