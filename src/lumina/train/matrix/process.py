"""Starts the processes of a cell, waits for them, and reads what they found."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from lumina.child_processes import reason_of_end
from lumina.features import Seen
from lumina.quantities import duration
from lumina.train.matrix.child import run

_SERVER = multiprocessing.get_context("forkserver")
"""Its server has imported everything and forks each run: seconds saved at a start."""

LOOKED_AFTER = 0.5
"""Seconds after which it is asked again whether a run is to be broken off."""


@dataclass(frozen=True)
class Trained:
    """What one run left.

    Attributes:
        found: of `lumina.train.matrix.child`.
        folder: holds its gradients.
    """

    found: Mapping[str, Any]
    folder: Path

    @property
    def error(self) -> dict[str, str] | None:
        """Code, message and hint of what stood in its way, or None."""
        told: dict[str, str] | None = self.found.get("error")
        return told

    @property
    def seen(self) -> Seen:
        """What features are looked for in."""
        found = self.found
        return Seen(
            calls=found["calls"],
            passes=found["passes"],
            columns=frozenset(found["columns"]),
            tensors=frozenset(found["tensors"]),
            figures=found["figures"],
        )

    @property
    def states_agree(self) -> bool | None:
        """Whether all processes ended with the same weights and moments, to the bit.

        None for one process, and where each holds a part of them.
        """
        digests = [one.read_text() for one in sorted(self.folder.glob("states.*"))]
        return len(set(digests)) == 1 if len(digests) > 1 else None

    def gradients(self) -> dict[str, Any]:
        """Of the first step: parameter -> tensor."""
        from safetensors.torch import load_file

        return load_file(self.folder / "gradients.safetensors")


def train(
    options: Mapping[str, Any],
    folder: Path,
    *,
    addresses: Sequence[str] = (),
    ranks: int = 1,
    threads: int = 1,
    timeout: float,
    broken_off: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train in processes of their own.

    Args:
        options: of the configuration; None leaves one unset.
        folder: of this run alone; what it held is removed.
        addresses: functions whose calls are counted.
        ranks: how many processes share the training.
        threads: of each.
        timeout: seconds after which they are ended.
        broken_off: whether they are to be ended at once.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    given = {name: value for name, value in options.items() if value is not None}
    asked = {"options": given, "addresses": list(addresses), "threads": threads}
    (folder / "asked.json").write_text(json.dumps(asked))
    _SERVER.set_forkserver_preload(["lumina.train.matrix.child", "torch._dynamo"])
    store, places = _meeting(ranks)
    here = {"OMP_NUM_THREADS": str(threads)}
    running = [
        _SERVER.Process(
            target=run, args=(str(folder), here | place, str(folder / f"log.{rank}"))
        )
        for rank, place in enumerate(places)
    ]
    for process in running:
        process.start()
    try:
        problem = _waited(running, timeout, broken_off)
    finally:
        for process in running:
            process.kill()
            process.join()
        del store
    file = folder / "found.json"
    if file.exists():
        return Trained(json.loads(file.read_text()), folder)
    log = folder / "log.0"
    printed = log.read_text(errors="replace") if log.exists() else ""
    message = f"{problem}: {reason_of_end(printed)}"
    return Trained({"error": {"code": "", "message": message, "hint": ""}}, folder)


def _waited(
    running: Sequence[BaseProcess], timeout: float, broken_off: Callable[[], bool]
) -> str:
    """Wait for all; in words, how they ended."""
    end = time.monotonic() + timeout
    for process in running:
        while process.exitcode is None:
            process.join(LOOKED_AFTER)
            if broken_off():
                return "it was broken off"
            if time.monotonic() > end:
                return f"it was ended after {duration(timeout)}"
    codes = sorted({process.exitcode or 0 for process in running})
    return f"it ended with code {', '.join(map(str, codes))}"


def _meeting(ranks: int) -> tuple[object, list[dict[str, str]]]:
    """What is held while the ranks run, and what the environment of each needs."""
    if ranks == 1:
        return None, [{}]
    from lumina.assemble.ranks import meeting_place

    store, place = meeting_place()
    sizes = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    numbers = [{"RANK": str(r), "LOCAL_RANK": str(r)} for r in range(ranks)]
    return store, [place | sizes | number for number in numbers]
