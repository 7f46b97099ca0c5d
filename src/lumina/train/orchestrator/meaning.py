"""What the names of findings and actions mean, in a sentence each."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from lumina.train.health import watching  # registers the checks  # noqa: F401
from lumina.train.health.check import CHECKS
from lumina.train.orchestrator.actions import ACTIONS
from lumina.train.orchestrator.decision import UNDO

VERDICTS = {
    "better": "the loss afterwards was lower than it was on its way to before; or, "
    "where nothing was changed, the finding was not made again while it was watched",
    "same": "the loss went on as expected without it, as far as noise lets one see",
    "worse": "the loss afterwards was higher than it was on its way to before",
    "unclear": "too little was measured, or the loss moved too much to tell",
}
"""What an outcome says; it is no proof that the action was the cause."""

LEVELS = {
    0: "nothing is changed",
    1: "a nudge",
    2: "a change of the training",
    3: "a step back",
    4: "the end of the run",
}
"""How far an action interferes."""

OF_THE_POLICY = {
    UNDO: "An earlier change is taken back: with it things were worse, or no better."
}


def meanings(names: Iterable[str]) -> dict[str, str]:
    """Name -> the first sentence about it; names that are not known are left out.

    Args:
        names: of checks, actions and outcomes.
    """
    found = {}
    for name in names:
        about = CHECKS.get(name) or (type(ACTIONS[name]) if name in ACTIONS else None)
        text = OF_THE_POLICY.get(name) or VERDICTS.get(name)
        if about is not None:
            text = (inspect.getdoc(about) or "").partition("\n\n")[0]
        if text:
            found[name] = " ".join(text.split())
    return found
