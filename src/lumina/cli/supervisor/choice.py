"""Whether a training is supervised, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lumina.config import Config
from lumina.quantities import duration

LONG = 3600.0
"""A run that is planned to take more seconds is supervised unless it is told not to."""

_LAUNCHERS = {
    "WORLD_SIZE": "a launcher started this process (WORLD_SIZE), and restarts are its "
    "business, such as torchrun's --max-restarts",
    "TORCHELASTIC_RUN_ID": "torchrun started this process; --max-restarts is its "
    "option for restarts",
    "OMPI_COMM_WORLD_SIZE": "mpirun started this process",
    "PMI_SIZE": "an MPI launcher started this process",
}
"""Environment variables of launchers, which look after their processes themselves."""

BECAUSE = "LUMINA_SUPERVISED_BECAUSE"
"""Environment variable by which a command hands its training over to a supervisor."""


@dataclass(frozen=True)
class Choice:
    """Whether a training is supervised.

    Attributes:
        on: it is; None: that depends on how long it is planned to take.
        why: the reason, in words.
    """

    on: bool | None
    why: str

    def after_planning(self, seconds: float | None) -> Choice:
        """The choice, where it depends on the time.

        Args:
            seconds: that the steps are planned to take; None: not known.
        """
        if self.on is not None:
            return self
        if seconds is None:
            return Choice(False, "how long the run takes is not known")
        planned = f"about {duration(seconds)} are planned"
        if seconds > LONG:
            return Choice(True, f"{planned}, more than an hour")
        return Choice(False, f"{planned}, less than an hour")

    def in_words(self) -> str:
        """One line for the banner and the plan."""
        if self.on is None:
            return "if the run is planned to take more than an hour"
        return f"{'yes' if self.on else 'no'}: {self.why}"

    def to_dict(self) -> dict[str, Any]:
        """The choice as `of_dict` takes it."""
        return asdict(self)

    @staticmethod
    def of_dict(values: Mapping[str, Any]) -> Choice:
        """The choice that `to_dict` gave."""
        return Choice(values.get("on"), str(values.get("why", "")))


def choose(config: Config, environment: Mapping[str, str], *, command: bool) -> Choice:
    """What the settings and the surroundings say, before the run is planned.

    Args:
        config: the settings.
        environment: variables of this process.
        command: this is the command `lumina`, and not a call from Python.
    """
    asked = config.supervisor.supervise
    if asked is not None:
        return Choice(asked, "asked for" if asked else "switched off")
    if config.nodes.num_nodes > 1:
        return Choice(False, "each machine starts the processes of its own alone")
    if environment.get(BECAUSE):
        return Choice(True, environment[BECAUSE])
    for name, why in _LAUNCHERS.items():
        if environment.get(name):
            return Choice(False, why)
    if environment.get("SLURM_STEP_NUM_TASKS", "1") not in ("", "1"):
        return Choice(False, "srun started this process as one of several")
    if environment.get("JPY_PARENT_PID"):
        return Choice(False, "a notebook started this process")
    if not command:
        return Choice(False, "Python called the command")
    return Choice(None, "")
