"""The evaluations of a run: when one is due, what it finds, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from lumina.assemble.emptying import empty_cache
from lumina.assemble.program import Program
from lumina.assemble.vocabulary_counts import RARE_BELOW, share_of
from lumina.batch import Batch
from lumina.errors import LuminaError
from lumina.heartbeat import beat
from lumina.measure.held_out import (
    EvaluationShortError,
    EvaluationStoppedError,
    HeldOut,
    Score,
    held_out_loss,
)
from lumina.measure.routing_modes import compare_modes, routing_modes
from lumina.plan.plan import Plan
from lumina.train.memory_ladder.beside_steps import unless_short
from lumina.train.recorder import Recorder

Stop = Callable[[], bool]
"""Whether this rank was asked to stop; an evaluation then ends between two batches."""

_CHANGE = ".eval_change"


@dataclass
class Evaluations:
    """What a run does with its held-out data.

    Attributes:
        batches: gives a program's rank its share of the held-out batches; None when
            nothing is held out.
        recorder: where outcomes are reported.
        score: judges held-out answers, where the loss does not.
        owed: a signal broke off the evaluation of the last step, which is made up for
            when the run goes on.
        first: judge once before the first step, for what changes from then on.
        outset: held-out loss of each source before the first step, or of the phase.
        parts: an evaluation takes each batch in this many forwards; more than one once
            memory was short.
    """

    batches: Callable[[Program], Iterable[Batch]] | None
    recorder: Recorder
    score: Score | None = None
    owed: bool = False
    first: bool = False
    outset: dict[str, float] = field(default_factory=dict)
    parts: int = 1

    def due(self, plan: Plan, step: int) -> bool:
        """Whether there is one after a step."""
        if self.batches is None:
            return False
        if step == plan.steps:
            return True
        return bool(plan.eval_every and step % plan.eval_every == 0)

    def judge(self, program: Program, step: int, stop: Stop) -> HeldOut | None:
        """Held-out loss now, with the averaged weights where there are any.

        Returns:
            None when a signal that ends the run came before the last batch.
        """
        assert self.batches is not None
        beat("evaluating")
        program.merge()
        outcome = None
        with program.evaluation(), suppress(EvaluationStoppedError):
            outcome = self._in_parts(program, step, stop)
        if outcome is None:
            return None
        if not outcome.tokens:
            self.recorder.event(
                "evaluation_without_labels",
                "warning",
                None,
                "none of the held-out rows that were judged has a label, so there is "
                "no held-out loss; judge more of them with --eval-batches, or hold out "
                "other data",
                step=step,
            )
        elif program.ranks.main:
            self.recorder.console.eval(step, outcome.loss, outcome.attempts)
        return outcome

    def _in_parts(self, program: Program, step: int, stop: Stop) -> HeldOut:
        """Held-out loss now, in forwards that are small enough for the memory.

        Raises:
            EvaluationStoppedError: a signal that ends the run came.
            LuminaError: E201 or E202 where not even one row fits.
        """
        assert self.batches is not None
        while True:
            try:
                return held_out_loss(
                    program.model,
                    self.batches(program),
                    device=program.device,
                    mesh=program.mesh,
                    score=self.score,
                    tasks=program.network.tasks,
                    sources=program.plan.sources,
                    watched=program.plan.watched,
                    stop=stop,
                    parts=self.parts,
                    meets=program.meets_in_forward,
                )
            except EvaluationShortError as error:
                code, text = error.code, str(error)
            self._halve(program.plan, step, code, text)

    def _halve(self, plan: Plan, step: int, code: str, text: str) -> None:
        """Evaluate in forwards of half the rows from here on."""
        if self.parts >= plan.micro_batch_size:
            raise LuminaError(
                code,
                f"no room to evaluate one row after step {step}: {text}",
                "hold out nothing (--eval-fraction 0), or use a smaller preset",
            )
        empty_cache()
        self.parts *= 2
        rows = -(-plan.micro_batch_size // self.parts)
        self.recorder.event(
            "evaluation_in_parts",
            "warning",
            code,
            f"the evaluation after step {step} had no room ({text}): it is done again "
            f"with {rows} row{'s' if rows > 1 else ''} in a forward",
            step=step,
            rows=rows,
        )

    def found(self, program: Program, outcome: HeldOut) -> dict[str, Any]:
        """What an evaluation adds to the row of its step."""
        found: dict[str, Any] = dict(outcome.metrics)
        for name, (loss, _) in outcome.sources.items():
            if name in self.outset:
                found[f"source.{name}{_CHANGE}"] = loss - self.outset[name]
        if (base := program.base) is not None:
            parts = program.parts
            found["base_distance"] = base.distance(parts.over, parts.count)
        if program.vocabulary is not None:
            found |= program.vocabulary.metrics(program.mesh.tokens)
        return found

    def tell_vocabulary(self, program: Program, step: int) -> None:
        """Which share of the vocabulary was seen, where that is watched."""
        if program.vocabulary is None:
            return
        shares = program.vocabulary.metrics(program.mesh.tokens)
        size = program.plan.spec.vocab_size
        each = "; ".join(
            f"{name or 'of all data'} {shares[f'{prefix}vocabulary_seen']:.1%}"
            f", of which {share_of(shares, prefix):.1%} fewer than {RARE_BELOW} times"
            for name, prefix in (
                ("", ""),
                *((name, f"source.{name}.") for name in program.plan.sources),
            )
        )
        self.recorder.event(
            "vocabulary_seen",
            "info",
            None,
            f"of the {size:,} tokens of the vocabulary this many were seen: {each}",
            step=step,
            **{"tokens": size, "shares": shares},
        )

    def measure_outset(self, program: Program, step: int, stop: Stop) -> bool:
        """The held-out loss of each source before anything is learned.

        Returns:
            False when a signal that ends the run came before the last batch.
        """
        if not self.first or self.batches is None:
            return True
        outcome = self.judge(program, step, stop)
        if outcome is None:
            return False
        self.outset = {name: loss for name, (loss, _) in outcome.sources.items()}
        listed = ", ".join(f"{n} {loss:.4f}" for n, loss in self.outset.items())
        self.recorder.event(
            "held_out_before",
            "info",
            None,
            f"before the first step the held-out loss is {listed}",
            step=step,
            losses=self.outset,
        )
        return True

    def tell_changes(self, plan: Plan, step: int) -> None:
        """How the held-out loss of each source has changed since the first step."""
        row = self.recorder.last_row
        changes = {
            key.removeprefix("source.").removesuffix(_CHANGE): row[key]
            for key in row
            if key.endswith(_CHANGE)
        }
        if not changes:
            return
        where = f"phase {plan.phase}" if plan.phase else "run"
        listed = ", ".join(
            f"{name} {self.outset[name]:.4f} -> {self.outset[name] + change:.4f} "
            f"({change:+.4f})"
            for name, change in changes.items()
        )
        self.recorder.event(
            "held_out_changes",
            "info",
            None,
            f"held-out loss since the {where} began: {listed}; a rise is forgetting",
            step=step,
            changes=changes,
        )

    def compare_modes(self, program: Program, step: int, stop: Stop) -> bool:
        """Say what other ways of choosing tokens would make of the trained weights.

        Returns:
            False when a signal that ends the run came before the last batch.
        """
        batches = self.batches
        if batches is None or not routing_modes(program.plan.spec):
            return True
        beat("evaluating")
        losses: dict[str, float] | None = {}

        def compared() -> dict[str, float]:
            return compare_modes(
                program.network,
                program.model,
                lambda: batches(program),
                device=program.device,
                mesh=program.mesh,
                sources=program.plan.sources,
                watched=program.plan.watched,
                stop=stop,
                parts=self.parts,
            )

        what = "the comparison of ways to choose tokens is"
        with program.evaluation(), suppress(EvaluationStoppedError):
            if program.meets_in_forward and program.ranks.world_size > 1:
                losses = compared()  # ranks meet in it: none can leave it out alone
            else:
                losses = unless_short(compared, None, what, self.recorder, step)
        if losses is None:
            return True
        if not losses:
            return False
        listed = ", ".join(f"{mode} {loss:.4f}" for mode, loss in losses.items())
        self.recorder.event(
            "routing_modes",
            "info",
            None,
            f"held-out loss by how tokens are chosen: {listed}; they are different "
            "functions, and generation uses the first",
            step=step,
            losses=losses,
        )
        return True
