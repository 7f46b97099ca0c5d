"""The losses of rows: made once, and gone on with where a process was killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lumina.cache_root import cache_root
from lumina.data.packing import pack
from lumina.data.store import TokenStore
from lumina.data.tokenizer import Tokenizer
from lumina.train import row_losses
from tiny_runs import Runs


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(row_losses, "BATCH_TOKENS", 8 * 32)
    return Runs(tmp_path, monkeypatch)


def test_a_killed_scoring_goes_on_behind_what_is_done(runs: Runs) -> None:
    base = runs.train(steps=1)
    folder = next((cache_root() / "stores").glob("*/train"))
    store = TokenStore.open(folder)
    packing = pack(store, 32)
    tokenizer = Tokenizer.from_path(base.folder / "tokenizer")
    told: list[tuple[str, int, int]] = []

    def measure() -> row_losses.RowLosses:
        return row_losses.RowLosses(
            str(base.folder), "cpu", tokenizer, lambda *one: told.append(one)
        )

    scored, plain = [], row_losses.mean_losses

    def killed(network: Any, batch: Any) -> Any:
        if len(scored) == 2:
            raise KeyboardInterrupt
        scored.append(1)
        return plain(network, batch)

    runs.monkeypatch.setattr(row_losses, "mean_losses", killed)
    with pytest.raises(KeyboardInterrupt):
        measure()(store, packing)
    part = next((cache_root() / "row-losses").glob("*.part"))
    assert part.stat().st_size == 4 * 16
    part.write_bytes(part.read_bytes() + b"xy")  # a number that was cut off
    runs.monkeypatch.setattr(row_losses, "mean_losses", plain)
    told.clear()
    found = measure()(store, packing)
    whole = len(packing) * 32 * 2
    assert told[0] == ("score", 24 * 64, whole) and told[-1] == ("score", whole, whole)
    kept = next((cache_root() / "row-losses").glob("*/losses.bin"))
    kept.unlink()
    kept.parent.rmdir()
    again = measure()(store, packing)
    assert np.array_equal(found, again) and found.min() > 1
    # Other losses are another order, with which no run goes on.
    names = [one.named("data", 32) for one in (measure(), measure())]
    assert names[0] == names[1]
    other = measure()
    other(store, packing)
    assert other.named("data", 32) != names[0] == other.named("data", 16)
