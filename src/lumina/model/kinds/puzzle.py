"""Hierarchical reasoning over whole puzzles."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lumina.model.aux_keys import HALTING, PUZZLE_COLUMNS, PUZZLE_STATISTICS
from lumina.model.kinds.kind import Kind, Term
from lumina.model.kinds.reasoning import declare_reasoner
from lumina.model.spec import ModelSpec
from lumina.model.tensors import ZEROS, Declared, Shape, Tensors, add

if TYPE_CHECKING:
    from torch import Tensor, nn

VECTORS = "backbone.puzzle_embedding.weight"
"""The table of one vector for each puzzle identifier."""

HALTING_WEIGHT = 0.5
"""Of the halting losses beside the cross entropy."""


class PuzzleReasoner(Kind):
    """Rows are puzzles, solved in segments until a halting head ends them."""

    name = "hrm"
    title = "hierarchical reasoner"
    assumed = "no token halts before the last segment"

    def words(self, spec: ModelSpec) -> list[str]:
        """The modules and the segments."""
        return [reasoning(spec, "whole puzzles")]

    def no_graph(self, spec: ModelSpec) -> str:
        """The number of its segments depends on the text."""
        return "how long it reasons depends on the text (use_hrm)"

    def applies(self, spec: ModelSpec) -> bool:
        """Whether rows are puzzles."""
        return spec.solves_puzzles

    def declare(self, spec: ModelSpec, tensors: Tensors) -> None:
        """A reasoner's tensors, and a vector for each puzzle."""
        assert spec.hrm is not None
        declare_reasoner(spec, tensors)
        shape, axes = (spec.hrm.num_puzzles, spec.hidden_size), ("puzzle", "hidden")
        vectors = Declared(VECTORS, shape, "puzzle", axes, ZEROS, sparse=True)
        add(tensors, vectors)

    def backbone(self, spec: ModelSpec, attention: str) -> nn.Module | None:
        """The two modules and the halting head."""
        from lumina.model.hrm import HierarchicalReasoner

        return HierarchicalReasoner(spec, attention)

    def objective(self, spec: ModelSpec, loss_chunk_bytes: int) -> nn.Module | None:
        """Solutions, and the halting losses."""
        from lumina.model.objective.puzzle import PuzzleObjective

        return PuzzleObjective(spec)

    def terms(self, spec: ModelSpec) -> Iterable[Term]:
        """The halting losses together, over the rows that have a label."""
        yield Term(HALTING, HALTING_WEIGHT, taught=True)

    def counts(self, spec: ModelSpec) -> Mapping[str, Shape]:
        """`PUZZLE_STATISTICS`."""
        return {PUZZLE_STATISTICS: (len(PUZZLE_COLUMNS),)}

    def metrics(self, plan: Any, counted: Mapping[str, Tensor]) -> dict[str, Any]:
        """The halting losses, and the results of the puzzles that ended."""
        sums = dict(
            zip(PUZZLE_COLUMNS, counted[PUZZLE_STATISTICS].tolist(), strict=True)
        )
        rows, done = plan.global_batch_size, sums["halted"]
        row: dict[str, Any] = {"act.halt_loss": sums["halt_loss"] / rows}
        if plan.spec.hrm.learns_continue:
            row["act.continue_loss"] = sums["continue_loss"] / rows
        row["act.halted_share"] = done / rows
        for key, column in (
            ("act.mean_steps", "steps"),
            ("act.exact_accuracy", "exact"),
            ("act.q_accuracy", "q_accuracy"),
        ):
            row[key] = sums[column] / done if done else None
        return row


def reasoning(spec: ModelSpec, on: str) -> str:
    """How a reasoner reasons, in a few words.

    Args:
        spec: its shape.
        on: what a segment works on.
    """
    hrm = spec.hrm
    assert hrm is not None
    layers = f"one module of {hrm.l_layers} layers"
    if hrm.variant != "trm":
        layers = f"{hrm.l_layers} low-level and {hrm.h_layers} high-level layers"
    return (
        f"{hrm.variant}: {layers}, {hrm.h_cycles} x ({hrm.l_cycles} + 1) updates a "
        f"segment, at most {hrm.halt_max_steps} segments on {on}"
    )
