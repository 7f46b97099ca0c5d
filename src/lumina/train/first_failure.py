"""The first of several processes that failed: the others say what it was.

A process that has lost another knows nothing but that a connection was reset. So the
first one to fail leaves its error in the store where the processes met, before it ends
and its connections with it; those that fail for want of it look there.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch.distributed as dist

from lumina.assemble.ranks import Ranks, times_joined
from lumina.errors import LuminaError, OtherRankError
from lumina.errors import lost_another as lost_by_gloo
from lumina.memory_shortage import shortage_code

MOST = 4000
"""Characters of a message that are kept."""

PATIENCE = 10.0
"""Seconds for the store to answer; its machine may be the one that has gone."""


@contextlib.contextmanager
def failures_shared(ranks: Ranks) -> Iterator[None]:
    """Leave word of what fails in here, or say of which process it is the failure.

    Raises:
        OtherRankError: in place of the error of an exchange, where another process
            left word before.
    """
    try:
        yield
    except OtherRankError:
        raise
    except Exception as error:
        if ranks.world_size == 1 or not dist.is_initialized():
            raise
        store = dist.distributed_c10d._get_default_store()
        key = f"lumina/first-failure-{times_joined()}"
        if not lost_another(error):
            word = json.dumps({"rank": ranks.rank} | _described(error))
            # Set only where nothing is: the first failure is the cause.
            _answer(lambda: store.compare_set(key, "", word))
            raise
        word = _answer(lambda: store.get(key) if store.check([key]) else None)
        if word is None or (found := json.loads(word))["rank"] == ranks.rank:
            raise
        raise OtherRankError(**found) from error


def lost_another(error: BaseException) -> bool:
    """Whether an exchange failed, as it does when a process at the other end goes."""
    return isinstance(error, dist.DistError) or lost_by_gloo(error)


def _described(error: Exception) -> dict[str, Any]:
    if isinstance(error, LuminaError):
        said = error.message[:MOST]
        return {"code": error.code, "message": said, "hint": error.hint[:MOST]}
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"[:MOST]
    return {"code": shortage_code(error), "message": said}


def _answer(ask: Callable[[], Any]) -> Any:
    """What the store answers; None where it has gone or does not."""
    found: list[Any] = []

    def asked() -> None:
        with contextlib.suppress(Exception):
            found.append(ask())

    thread = threading.Thread(target=asked, name="first failure", daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return found[0] if found else None
