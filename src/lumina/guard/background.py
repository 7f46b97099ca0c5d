"""Pretests beside a run: in processes that give way, followed by a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lumina.guard.judge import Verdict
from lumina.guard.levers import used
from lumina.guard.safe_optimizations import PretestHook
from lumina.plan.plan import Plan
from lumina.threads import start


@dataclass(frozen=True)
class Outcome:
    """What pretests beside a run have found.

    Attributes:
        plan: that was tried.
        verdicts: lever -> what was found.
        error: why there are none, or "".
    """

    plan: Plan
    verdicts: Mapping[str, Verdict]
    error: str = ""

    @property
    def used(self) -> tuple[str, ...]:
        """The levers that may be on."""
        return used(dict(self.verdicts))


class Background:
    """One round of pretests at a time, which the caller does not wait for.

    Args:
        hook: says what is due, tries it, and keeps the history.
    """

    def __init__(self, hook: PretestHook) -> None:
        self.hook = hook
        self._thread: threading.Thread | None = None
        self._found: Outcome | None = None

    @property
    def busy(self) -> bool:
        """Whether a round is under way, or its outcome waits to be taken."""
        return self._thread is not None

    def due(
        self, plan: Plan, levers: Sequence[str], fingerprint: str = ""
    ) -> dict[str, str]:
        """Lever -> why it has to be tried now: a change of the configuration, of the
        model's size, of the weights, of the machine, or that it was not tried."""
        found = {name: self.hook.why(plan, name, fingerprint) for name in levers}
        return {name: why for name, why in found.items() if why}

    def begin(self, plan: Plan, levers: Sequence[str], **weights: Any) -> None:
        """Begin a round.

        Args:
            plan: with the levers on.
            levers: their names.
            weights: `checkpoint` and `fingerprint`, as of `PretestHook.run`.
        """
        assert self._thread is None

        def work() -> None:
            try:
                found = self.hook.run(plan, levers, background=True, **weights)
                self._found = Outcome(plan, found)
            except Exception as error:  # told by whoever takes it
                self._found = Outcome(plan, {}, f"{type(error).__name__}: {error}")

        self._thread = threading.Thread(
            target=work, name="lumina-pretests", daemon=True
        )
        start(self._thread)

    def take(self, wait: Callable[[threading.Thread], object] | None = None) -> Any:
        """The outcome of the round, once; None where it is not there yet.

        Args:
            wait: is called with the thread first, to wait for it.
        """
        if self._thread is None:
            return None
        if wait is not None:
            wait(self._thread)
        if self._thread.is_alive():
            return None
        self._thread, found, self._found = None, self._found, None
        return found
