"""What training in chunks does to the work of a run."""

from __future__ import annotations

import pytest

from lumina.errors import LuminaError
from lumina.model.earlier_keys import EarlierKeys
from option_effects import shows
from tiny_runs import Runs


@pytest.mark.covers("MEM-06: --use-chunked-training, --chunk-size")
@shows("use_chunked_training", "chunk_size")
def chunks(runs: Runs) -> None:
    """The run learns the same, in chunks of the tokens asked for."""
    turns: list[tuple[int, bool]] = []
    real = EarlierKeys.turn

    def turn(self: EarlierKeys, begin: int, end: int, learns: bool) -> None:
        turns.append((end - begin, learns))
        real(self, begin, end, learns)

    runs.monkeypatch.setattr(EarlierKeys, "turn", turn)
    whole = runs.train(steps=2)
    assert not turns
    length = runs.config().model.seq_length
    half = runs.train(steps=2, use_chunked_training=True, chunk_size=length // 2)
    assert set(turns) == {(length // 2, False), (length // 2, True)}
    assert half.column("loss") == pytest.approx(whole.column("loss"), rel=1e-4)
    turns.clear()
    runs.train(steps=1, use_chunked_training=True, chunk_size=length // 4)
    assert {size for size, _ in turns} == {length // 4}


@shows("chunk_offload")
def offloaded(runs: Runs) -> None:
    """Where the device is the host there is no other place for the keys."""
    named = {"use_chunked_training": True, "chunk_size": 8, "steps": 1}
    runs.train(**named)
    with pytest.raises(LuminaError) as caught:
        runs.train(**named, chunk_offload=True)
    assert caught.value.code == "E003"
