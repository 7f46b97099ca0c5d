"""What Apple GPUs cannot train: they have no float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from lumina.errors import LuminaError
from lumina.features import lacking
from lumina.model.kinds.table import kinds_of
from lumina.model.spec import ModelSpec

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.plan.environment import Environment

NEEDS_FLOAT64: dict[str, Callable[[Config], bool]] = {
    "preserve_base_knowledge": lambda c: c.get("preserve_base_knowledge") is True,
    "gradient_steps noise": lambda c: "noise" in c.train.gradient_steps,
}
"""What computes in float64, beside kinds of model -> whether a Config asks for it."""


def check_apple(config: Config, spec: ModelSpec, machine: Environment) -> None:
    """Refuse what needs float64 on an Apple GPU.

    Raises:
        LuminaError: E003.
    """
    if machine.device != "mps":
        return
    asked = [str(kind.option) for kind, _ in lacking(config, "float32_alone")]
    asked += [k.name for k in kinds_of(spec) if "float32_alone" in k.lacks]
    asked += [name for name, applies in NEEDS_FLOAT64.items() if applies(config)]
    if asked:
        raise LuminaError(
            "E003",
            f"{', '.join(asked)} computes in float64, which Apple GPUs do not have",
            "use --device cpu",
        )
