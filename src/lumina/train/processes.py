"""Whether the processes that train share a disk."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import torch

from lumina.assemble.ranks import Ranks
from lumina.config import Config
from lumina.errors import LuminaError


def check_shared_storage(config: Config, ranks: Ranks) -> None:
    """Refuse machines that do not all see the folder in which the run will be.

    The first rank leaves a file beside the run's folder for a moment, and the others
    look for it there. Ranks of one machine are not asked.

    Args:
        config: the settings.
        ranks: this process's place; the ranks are connected.

    Raises:
        LuminaError: E104 on every rank.
    """
    if ranks.world_size == ranks.local_size:
        return
    asked = config.run
    own = Path(asked.run_dir or asked.resume or "runs").absolute()
    places = (own, *own.parents)
    mark, level, refused = "", 0, ""
    if ranks.main:
        mark = f".lumina-{secrets.token_hex(8)}"
        level = next(n for n, folder in enumerate(places) if folder.is_dir())
        try:
            (places[level] / mark).touch()
        except OSError as error:
            refused = f"{places[level]}: {error.strerror}"
    mark, level, refused = ranks.share((mark, level, refused))
    place = places[level]
    missing = torch.zeros(ranks.world_size)
    # Other machines may keep what they know of a folder for some seconds: a listing,
    # unlike a look at one name, is read again.
    missing[ranks.rank] = mark not in _names(place)
    ranks.sum_(missing)
    if ranks.main and not refused:
        (place / mark).unlink()
    without = [str(rank) for rank in missing.nonzero().flatten().tolist()]
    if not without:
        return
    raise LuminaError(
        "E104",
        refused
        or f"rank{'s' if len(without) > 1 else ''} {', '.join(without)} on another "
        f"machine cannot see the folder in which the run is to be, {own.parent}",
        "put --run-dir on storage that all machines see under the same path: every one "
        "of them writes its part of a checkpoint there",
    )


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
