"""`AIOS_DDP_SPAWN=1`: DDP with a process for each GPU, asked for by the environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lumina.config import Config, Source
from lumina.errors import LuminaError

VARIABLE = "AIOS_DDP_SPAWN"
"""The environment variable; the design documents call it so."""

_SOURCE = Source("flag", VARIABLE)


def spawned(
    config: Config, environment: Mapping[str, str], say: Callable[[str], None]
) -> Config:
    """The settings, with the processes that the variable asks for.

    Options win: `--nproc` says how many processes there are, and `--parallel` how they
    share the work. A process that a launcher has started, starts no others.

    Args:
        config: the settings.
        environment: variables of this process.
        say: takes a line for a person.

    Raises:
        LuminaError: E005 where the variable is neither on nor off; E003 with `strict`
            where there is no GPU.
    """
    word = environment.get(VARIABLE, "").strip().lower()
    if word in ("", "0", "false", "no", "off"):
        return config
    if word not in ("1", "true", "yes", "on"):
        raise LuminaError(
            "E005",
            f"{VARIABLE} is {word!r} in the environment",
            "1 asks for DDP with a process for each GPU; 0, or no value, does not",
        )
    if not config.is_chosen("parallel"):
        config = config.override({"parallel": "ddp"}, _SOURCE)
    system = config.system
    if "WORLD_SIZE" in environment or system.nproc or system.cuda_ids:
        return config
    import torch

    count = torch.cuda.device_count()
    if count:
        return config.override({"nproc": count}, _SOURCE)
    if system.strict:
        raise LuminaError(
            "E003",
            f"{VARIABLE} asks for a process for each GPU, and there is none here",
            "say how many processes there are with --nproc, or leave --strict out",
        )
    say(
        f"{VARIABLE} asks for a process for each GPU, and there is none here: one "
        "process trains; --nproc says otherwise"
    )
    return config
