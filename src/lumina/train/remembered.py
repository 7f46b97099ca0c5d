"""What a State has to remember of a run beside its tensors."""

from __future__ import annotations

from typing import Any

from lumina.data.tokenise import ENCODING_RULES
from lumina.train.recovery.run import Run


def remembered(run: Run, phase_done: bool) -> dict[str, Any]:
    """The `extra` of a State.

    Args:
        run: under way.
        phase_done: whether the phase of the run is over.
    """
    extra: dict[str, Any] = {
        **run.best.remembered(),
        "evaluation_owed": run.evaluations.owed,
        "rules": run.rules.state(),
        "data_fingerprint": run.stream.fingerprint,
        "encoding_rules": ENCODING_RULES,
        "encoding": run.encoding,
    }
    if run.evaluations.outset:
        extra["outset"] = run.evaluations.outset
    if run.plan.phases:
        extra["phase"] = {
            "index": run.plan.phases.index(run.plan.phase),
            "begin": run.plan.phase_begin,
            "done": phase_done,
        }
    return extra
