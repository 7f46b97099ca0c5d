"""Reading what W&B writes offline, without W&B's own service."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def wandb_records(folder: Path) -> list[Any]:
    """What stands in the offline files of a run, as W&B's own messages."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for file in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for data in log_entries(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            found.append(record)
    return found


def log_entries(data: bytes) -> Iterator[bytes]:
    """The entries of a log in LevelDB's format, behind W&B's own head of 7 bytes."""
    assert data[:4] == b":W&B"
    place, entry = 7, b""
    while place + 7 <= len(data):
        left = 2**15 - place % 2**15
        if left < 7:  # no room for a head: filled up with zeros
            place += left
            continue
        size, kind = (
            int.from_bytes(data[place + 4 : place + 6], "little"),
            data[place + 6],
        )
        entry += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield entry
            entry = b""
