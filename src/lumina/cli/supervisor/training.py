"""The training under a supervisor: what it is told, and what it says."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from typing import NoReturn

from lumina import heartbeat
from lumina.cli.failures import as_lumina_error
from lumina.cli.supervisor.choice import BECAUSE, Choice
from lumina.config import Config, Source
from lumina.config.leaves import field
from lumina.config.modifications import MODIFIERS
from lumina.errors import lost_another


class HandOverError(Exception):
    """The training is to start over under a supervisor, before it has begun here.

    Args:
        why: the reason, in words.
    """

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


def restarted(config: Config) -> Config:
    """The settings; after a restart, with the run to go on with.

    What changed the run when it was begun, or resumed, has been done.
    """
    told = heartbeat.told("restart")
    if told.get("one_process"):
        first = config.system.cuda_ids[:1]
        here = {"nproc": 1, "cuda_ids": first}
        config = config.override(here, Source("flag", "several could not begin"))
    run = told.get("run")
    if run is None:
        return config
    again = {"run_dir": run, "auto_resume": True, "resume": None, "branch_from": None}
    config = config.override(again, Source("flag", "after a restart"))
    done = {leaf: field(leaf).default for leaf in MODIFIERS}
    return config.override(done, Source("default"))


def planned(choice: Choice, seconds: float | None) -> str:
    """What the plan says of the supervisor, and act on it.

    Args:
        choice: before the run was planned.
        seconds: that its steps are planned to take; None: not known.

    Returns:
        One line for the banner.

    Raises:
        HandOverError: a run of this length is supervised, and this one is not yet.
    """
    told = heartbeat.told("supervision")
    if told:
        choice = Choice.of_dict(told)
    decided = choice.after_planning(seconds)
    heartbeat.leave("plan", {"supervised": bool(decided.on), "why": decided.why})
    if decided.on and not told:
        raise HandOverError(decided.why)
    return decided.in_words()


def hand_over(words: list[str], why: str, environment: Mapping[str, str]) -> NoReturn:
    """Become the supervisor of this training, which begins in another process.

    Args:
        words: of the command.
        why: the reason, in words.
        environment: variables as they were when the command was started.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(
        sys.executable,
        [sys.executable, "-m", "lumina", *words],
        {**environment, BECAUSE: why},
    )


def tell(text: str) -> None:
    """A line for a person, beside what a training itself says."""
    print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def failures_left() -> Iterator[None]:
    """Leave word of what goes wrong, for the supervisor."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        coded = as_lumina_error(error)
        text = (
            coded.message if coded is not None else f"{type(error).__name__}: {error}"
        )
        heartbeat.leave(
            "failure",
            {
                "code": coded.code if coded is not None else None,
                "type": type(error).__name__,
                "message": text.splitlines()[0] if text else "",
                "lost_another": coded is None and lost_another(error),
            },
        )
        raise
