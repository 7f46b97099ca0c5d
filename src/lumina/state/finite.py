"""Whether a checkpoint that is whole can be resumed."""

from __future__ import annotations

import torch
from torch import Tensor

from lumina.state.manifest import damaged
from lumina.state.reader import CheckpointReader


def not_finite(reader: CheckpointReader) -> str | None:
    """Which tensors hold a number that is not finite, in words; None where none does.

    The states of optimizers count: a run that goes on from them would not recover.
    """
    broken = [name for name in reader.names() if _is_broken(reader.tensor(name))]
    broken += [
        f"{slot} of {name}"
        for slot in reader.slots()
        for name in reader.optimizer_names(slot)
        if _is_broken(reader.optimizer_tensor(slot, name))
    ]
    if not broken:
        return None
    more = f" and {len(broken) - 3} more" if len(broken) > 3 else ""
    return f"not finite: {', '.join(broken[:3])}{more}"


def require_finite(reader: CheckpointReader) -> None:
    """Refuse a checkpoint that no step can be taken from.

    Raises:
        LuminaError: E303, naming the tensors.
    """
    problem = not_finite(reader)
    if problem is not None:
        raise damaged(reader.path, problem)


def _is_broken(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
