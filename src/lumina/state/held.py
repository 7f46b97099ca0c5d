"""A State that waits in memory to be written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lumina.state import exact_json
from lumina.state.state import State

Kind = Literal["regular", "best", "emergency", "phase"]
"""Why a checkpoint is written."""


@dataclass(frozen=True)
class Held:
    """A State to be written, and what it remembered when it was taken.

    Attributes:
        state: with tensors that nothing else changes.
        kind: of the checkpoint.
        state_json: the text of state.json. The State's own lists and tables are those
            of the run, which goes on and changes them.
    """

    state: State
    kind: Kind
    state_json: bytes

    @staticmethod
    def of(state: State, kind: Kind) -> Held:
        """A State as it is now."""
        text = exact_json.dumps(state.json_parts(), indent=1).encode()
        return Held(state, kind, text)
