"""The rules of a checkpoint, also of one from before there were several."""

from __future__ import annotations

from typing import Any

from lumina.train.rules.arbiter import Ruling
from lumina.train.rules.rule import Proposal

_RULE = "expert_capacity"
"""The one rule that there was."""


def rules_state(extra: dict[str, Any]) -> dict[str, Any]:
    """What `RunningRules.load` takes, from a checkpoint's `extra`.

    Earlier checkpoints hold one rule under `overflow`: the window under way, and the
    factor that was decided and not yet applied.
    """
    if "rules" in extra:
        state: dict[str, Any] = extra["rules"]
        return state
    held = extra.get("overflow")
    if held is None:
        return {}
    rulings = []
    if held["factor"] is not None:
        reason = f"{held['rate']:.1%} of assignments were dropped"
        proposal = Proposal("capacity_factor", held["factor"], reason)
        rulings.append(Ruling(_RULE, proposal, held["due"]).to_dict())
    window = {"total": held["total"], "count": held["count"]}
    return {"arbiter": {"rulings": rulings}, "rules": {_RULE: window}}
