"""Devices: what contradicts, and what does nothing there."""

from __future__ import annotations

from lumina.config.rules.refusing import refuse
from lumina.config.rules.rule import Rule
from lumina.config.settings import Settings
from lumina.errors import LuminaError


def check(settings: Settings) -> None:
    """Refuse GPUs that are named twice, or beside another device.

    Raises:
        LuminaError: E002; E005 for numbers that name no GPUs.
    """
    system = settings.system
    ids = system.cuda_ids
    if not ids:
        return
    words = ",".join(map(str, ids))
    if min(ids) < 0 or len(set(ids)) < len(ids):
        raise LuminaError(
            "E005",
            f"cuda_ids cannot be {words}",
            "give the number of each GPU once, counted from 0, such as 0,1",
        )
    if system.device not in ("auto", "cuda"):
        refuse(
            f"cuda_ids {words} names GPUs, and device is {system.device}",
            "leave one of the two out",
        )
    if system.nproc is not None and system.nproc != len(ids):
        refuse(
            f"cuda_ids {words} names {len(ids)} GPUs, and nproc is {system.nproc}",
            f"leave nproc out: {len(ids)} processes then use one GPU each",
        )


def without_effect(settings: Settings) -> dict[str, str]:
    """Options without effect, and why."""
    device = settings.system.device
    if device in ("auto", "cuda"):
        return {}
    return {"cuda_warm_up": f"device is {device}"}


RULE = Rule(check=check, without_effect=without_effect)
