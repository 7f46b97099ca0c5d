"""What the orchestrator would have decided in a run that had none."""

from __future__ import annotations

from dataclasses import replace

from lumina.config import Config
from lumina.plan.decisions import Decisions
from lumina.plan.orchestrating import decide_orchestrator
from lumina.plan.plan import Plan
from lumina.state.decisions_made import Made
from lumina.state.run_directory import RunDirectory
from lumina.train.replaying.history import history_of
from lumina.train.replaying.replay import decided_again
from lumina.train.rules.orchestrator import Orchestrator


def would_have_decided(run: RunDirectory) -> list[Made]:
    """The decisions in shadow mode about the rows that a run left behind.

    Raises:
        LuminaError: E104 for a missing file, E101 for a broken one.
    """
    history = history_of(run)
    plans = [(until, _in_shadow(plan)) for until, plan in history.plans]
    return decided_again(replace(history, plans=plans))


def _in_shadow(plan: Plan) -> Plan:
    """The Plan with the orchestrator in shadow mode, as it is by default."""
    decisions = Decisions(values={"steps": plan.steps})
    decide_orchestrator(Config(adaptive="shadow"), decisions)
    settings = decisions.values["orchestrator"]
    return plan.replace(orchestrator=settings, rules=(Orchestrator.name,))
