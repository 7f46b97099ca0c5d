"""What training in chunks, or of rows that ranks share, does to the work of a run."""

from __future__ import annotations

import pytest

from lumina.errors import LuminaError
from lumina.model.earlier_keys import EarlierKeys
from option_effects import shows
from option_effects.system import plan_of_two
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


@shows("context_parallel")
def shared_rows(runs: Runs) -> None:
    """Ranks are started in tests/parallel/test_context_ranks.py; here, their plan."""
    found = {
        value: plan_of_two(runs.config(global_batch_size=8, context_parallel=value))
        for value in (None, 1, 2)
    }
    assert [one.data_parallel for one in found.values()] == [2, 2, 1]
    assert found[2].attention == "blockwise" != found[1].attention
    assert found[2].memory["activations"] < found[1].memory["activations"]
    assert "groups of 2" in runs.refused("E002", context_parallel=2)
