"""What Apple GPUs cannot train: they have no float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.plan.environment import Environment

NEEDS_FLOAT64: dict[str, Callable[[Config], bool]] = {
    "use_hrm": lambda c: c.hrm.use_hrm,
    "use_mod": lambda c: c.mod.use_mod,
    "use_mor": lambda c: c.mor.use_mor,
    "tasks": lambda c: bool(c.data.tasks),
    "preserve_base_knowledge": lambda c: c.get("preserve_base_knowledge") is True,
    "gradient_steps noise": lambda c: "noise" in c.train.gradient_steps,
}
"""What computes in float64 -> whether a Config asks for it."""


def check_apple(config: Config, machine: Environment) -> None:
    """Refuse what needs float64 on an Apple GPU.

    Raises:
        LuminaError: E003.
    """
    if machine.device != "mps":
        return
    asked = [name for name, applies in NEEDS_FLOAT64.items() if applies(config)]
    if asked:
        raise LuminaError(
            "E003",
            f"{', '.join(asked)} computes in float64, which Apple GPUs do not have",
            "use --device cpu",
        )
