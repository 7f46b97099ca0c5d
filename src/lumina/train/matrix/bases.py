"""Trained models that cells begin with, and the same with matrices in few bits."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lumina.state.checkpoint import CheckpointStore
from lumina.state.reader import open_latest
from lumina.state.stored_base import StoredBase
from lumina.state.weights import open_weights

_BASE = re.compile(r"\{base(?: in (\w+))?\}")
"""The place of a base, and the codec that its matrices went through."""


def bases_in(leaves: Mapping[str, Any]) -> dict[str, str]:
    """The bases that the options of a run name: place -> codec, "" for none."""
    text = " ".join(map(str, leaves.values()))
    return {one[0][1:-1]: one[1] or "" for one in _BASE.finditer(text)}


def through_few_bits(run: Path, codec: str, target: Path) -> Path:
    """A copy of a run whose matrices have the values that few bits stand for.

    What trains beside a base in few bits is compared with what trains beside this one:
    both compute with the same numbers, so that they differ by the order of sums alone,
    and the error of the rounding itself hides nothing.

    Args:
        run: finished; its newest checkpoint is taken.
        codec: of `lumina.ops.low_bits`.
        target: the folder of the copy; where it is there, it is complete.

    Returns:
        `target`.
    """
    if target.exists():
        return target
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(run, partial, ignore=shutil.ignore_patterns("checkpoints"))
    reader = open_latest(run)
    assert reader is not None, f"{run} was trained and has no checkpoint"
    with reader:
        state = reader.state()
        few = StoredBase(reader, open_weights(run).spec, codec)
        state.tensors = {name: few.tensor(name) for name in state.tensors}
    store = CheckpointStore(partial)
    try:
        store.save(state, background=False, already_snapshot=True)
    finally:
        store.close()
    os.rename(partial, target)
    return target
