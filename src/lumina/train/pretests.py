"""Optimisations that are proven beside a run, and switched on once they are.

A run with `--safe-optimizations background` starts without the optimisations that are
not proven on this machine and can be switched while it trains. They are tried in
processes of their own that give way to the run; what is proven is asked for like any
other change, so that it is journalled with its step and repeated by a resume. Each
checkpoint is a reason to try again, with its weights, and so are a change of the
configuration and of the model's size; what then fails is switched off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.features import FEATURES
from lumina.guard.background import Background, Outcome
from lumina.guard.safe_optimizations import PretestHook
from lumina.plan.plan import Plan
from lumina.train.callbacks import Callback, SavedCheckpoint

if TYPE_CHECKING:
    from lumina.train.trainer import Trainer


class BackgroundPretests(Callback):
    """Tries the levers of a run beside it.

    Args:
        hook: runs pretests; default: one of its own.
    """

    def __init__(self, hook: PretestHook | None = None) -> None:
        self._background = Background(hook or PretestHook())
        self._seen: Plan | None = None
        self._saved: SavedCheckpoint | None = None
        self._of_checkpoint = False

    def on_step(self, trainer: Trainer, row: dict[str, Any]) -> None:
        """Take what was found, and begin what is due."""
        plan = trainer.plan
        if plan is None or not plan.safe.get("background") or not trainer.ranks.main:
            return
        outcome = self._background.take()
        if outcome is not None:
            self._act(trainer, outcome, int(row["step"]))
        if self._background.busy:
            return
        if self._saved is not None:
            saved, self._saved = self._saved, None
            self._try(trainer, row, saved)
        elif plan is not self._seen:
            self._seen = plan
            self._try(trainer, row)

    def on_checkpoint(self, trainer: Trainer, saved: SavedCheckpoint) -> None:
        """The newest one is tried when the round before it is over."""
        self._saved = saved

    def _try(
        self,
        trainer: Trainer,
        row: dict[str, Any],
        saved: SavedCheckpoint | None = None,
    ) -> None:
        assert trainer.plan is not None
        plan, levers = with_levers(trainer.plan)
        mark = "" if saved is None else f"step {saved.step}, {saved.bytes} bytes"
        due = self._background.due(plan, levers, mark)
        if not due:
            return
        why = "; ".join(dict.fromkeys(due.values()))
        self._tell(trainer, row, f"trying {', '.join(due)} beside the run: {why}",
                   levers=list(due), why=why)  # fmt: skip
        weights = {}
        if saved is not None:
            weights = {"checkpoint": str(saved.path), "fingerprint": mark}
        self._of_checkpoint = saved is not None
        self._background.begin(plan, list(due), **weights)

    def _act(self, trainer: Trainer, outcome: Outcome, step: int) -> None:
        """Ask for what is proven, and to leave out what is not."""
        row = {"step": step}
        if outcome.error:
            text = f"pretests beside the run ended: {outcome.error}"
            return self._tell(trainer, row, text, error=outcome.error)
        assert trainer.plan is not None and trainer.controls is not None
        may = outcome.used
        for name, verdict in outcome.verdicts.items():
            said = "proven" if verdict.trusted else "not proven"
            self._tell(trainer, row, f"{name} is {said}: {verdict.text}",
                       lever=name, trusted=verdict.trusted)  # fmt: skip
            if "+" in name:
                continue
            on, wanted = FEATURES[name].is_active(trainer.plan), name in may
            if on == wanted:
                continue
            reason = f"{said} by a pretest beside the run: {verdict.text}"
            try:
                trainer.controls.request(name, wanted, reason, source="pretest")
            except LuminaError as error:
                self._tell(trainer, row, f"{name} stays as it is: {error.message}",
                           lever=name)  # fmt: skip

    @staticmethod
    def _tell(trainer: Trainer, row: dict[str, Any], text: str, **data: Any) -> None:
        trainer.tell("pretest", text, int(row["step"]), **data)


def with_levers(plan: Plan) -> tuple[Plan, Sequence[str]]:
    """The Plan with the levers that wait for their proof, and all that it then has."""
    names = [name for name in plan.safe.get("waiting", ()) if name in FEATURES]
    for name in names:
        if not FEATURES[name].is_active(plan):
            plan = FEATURES[name].switched_on(plan)
    return plan, [name for name in names if FEATURES[name].is_active(plan)]
