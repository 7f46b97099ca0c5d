"""What the methods of a `Trainer` know of the job that runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.train.loop import Loop


class RunningJob:
    """The loop under way, and how a change of it is asked for."""

    config: Config
    _loop: Loop | None
    _last_status: Mapping[str, Any]

    def _running(self) -> Loop:
        """The loop under way.

        Raises:
            LuminaError: E002 when there is none.
        """
        raise NotImplementedError

    def _request(self, name: str, value: Any, reason: str) -> int:
        return self._running().controls.request(name, value, reason)
