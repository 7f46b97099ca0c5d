"""Hierarchical reasoning about text: each token halts by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lumina.model.kinds.kind import Kind, Term
from lumina.model.kinds.puzzle import HALTING_WEIGHT, reasoning
from lumina.model.kinds.reasoning import declare_reasoner
from lumina.model.spec import ModelSpec
from lumina.model.tensors import Shape, Tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

STATISTICS = "act.statistics"


class TextReasoner(Kind):
    """A causal language model that thinks about tokens in segments."""

    name = "hrm"
    title = "hierarchical reasoner"
    assumed = "no token halts before the last segment"

    def words(self, spec: ModelSpec) -> list[str]:
        """The modules and the segments."""
        return [reasoning(spec, "each token, causally")]

    def no_graph(self, spec: ModelSpec) -> str:
        """The number of its segments depends on the text."""
        return "how long it reasons depends on the text (use_hrm)"

    def applies(self, spec: ModelSpec) -> bool:
        """Whether it reasons, and about text."""
        return spec.hrm is not None and not spec.solves_puzzles

    def declare(self, spec: ModelSpec, tensors: Tensors) -> None:
        """A reasoner's tensors."""
        declare_reasoner(spec, tensors)

    def backbone(self, spec: ModelSpec, attention: str) -> nn.Module | None:
        """The two modules and the halting head."""
        from lumina.model.hrm_language import LanguageReasoner

        return LanguageReasoner(spec, attention)

    def objective(self, spec: ModelSpec, loss_chunk_bytes: int) -> nn.Module | None:
        """Cross entropy after every segment, and the halting losses."""
        from lumina.model.objective.halting_language import HaltingLanguageObjective

        return HaltingLanguageObjective(spec, loss_chunk_bytes)

    def terms(self, spec: ModelSpec) -> Iterable[Term]:
        """The halting losses."""
        assert spec.hrm is not None
        yield Term("act.halt_loss", HALTING_WEIGHT, taught=True)
        if spec.hrm.learns_continue:
            yield Term("act.continue_loss", HALTING_WEIGHT, taught=True)

    def counts(self, spec: ModelSpec) -> Mapping[str, Shape]:
        """Of each segment: tokens in it, halted after it, right, judged rightly."""
        assert spec.hrm is not None
        return {STATISTICS: (spec.hrm.halt_max_steps, 4)}

    def metrics(self, plan: Any, counted: Mapping[str, Tensor]) -> dict[str, Any]:
        """How long tokens were thought about, and with what result.

        `act.active_share` is the share of the tokens with a label that took each
        segment, `act.mean_steps` their mean number of segments, `act.halted_share` the
        share that halted before the limit, `act.accuracy` the share whose most likely
        token was right where they halted, `act.q_accuracy` the share of (token,
        segment) for which the halting head knew whether it was.
        """
        entered, ended, right, known = counted[STATISTICS].unbind(1)
        tokens = entered[0].clamp(min=1)
        share = entered / tokens
        return {
            "act.active_share": share.tolist(),
            "act.mean_steps": share.sum().item(),
            "act.halted_share": (ended[:-1].sum() / tokens).item(),
            "act.accuracy": (right.sum() / tokens).item(),
            "act.q_accuracy": (known.sum() / entered.sum().clamp(min=1)).item(),
        }
