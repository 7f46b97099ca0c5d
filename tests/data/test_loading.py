"""How text is loaded follows the size of its files, unless it is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lumina import Config
from lumina.data.kinds import chosen_kind
from lumina.data.loading import choose_loading, encoding_threads
from lumina.data.prepare import prepare
from lumina.errors import LuminaError


@pytest.mark.covers("DAT-21")
@pytest.mark.parametrize(
    ("size", "way", "why"),
    [
        (499 * 10**6, "memory", "499 MB of files, under 500 MB"),
        (500 * 10**6, "sharded", "500 MB of files, up to 10 GB"),
        (10**10, "sharded", "10 GB of files, up to 10 GB"),
        (10**10 + 10**7, "streaming", "10.01 GB of files, over 10 GB"),
    ],
)
def test_size_decides(tmp_path: Path, size: int, way: str, why: str) -> None:
    file = tmp_path / "data.txt"
    file.touch()
    os.truncate(file, size)  # takes no room
    config = Config(train_data=(str(file),))
    assert str(choose_loading(config)) == f"{way} ({why})"
    kind = "streamed" if way == "streaming" else "text"
    assert chosen_kind(config).name == kind
    more = config.replace(streaming_threshold_gb=100.0)
    assert choose_loading(more).way == ("memory" if way == "memory" else "sharded")


def test_a_source_of_unknown_size_is_not_held_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A data set of the hub that does not say its size may be of any size."""
    from lumina.data import loading
    from lumina.data.sources.entry import Source
    from lumina.data.sources.hub import Hub

    source = Source("hf://books:train", Hub())
    for size, way in ((0, "sharded"), (10, "memory"), (11 * 10**9, "streaming")):
        monkeypatch.setattr(Hub, "size", lambda self, source, size=size: size)
        monkeypatch.setattr(loading, "find_sources", lambda paths: [source])
        found = choose_loading(Config(train_data=("hf://books:train",)))
        assert found.way == way, found


@pytest.mark.covers(
    "DAT-22: force streaming",
    "DAT-22: force memory loading",
    "DAT-22: disable sharding",
)
@pytest.mark.parametrize(
    ("word", "leaf", "value"),
    [
        ("force_streaming", "data_loading", "streaming"),
        ("force_memory_loading", "data_loading", "memory"),
        ("disable_sharding", "shard_size_mb", 0),
    ],
)
def test_switches_of_the_earlier_designs(word: str, leaf: str, value: object) -> None:
    assert Config(**{word: True}).get(leaf) == value
    assert Config(**{word: "false"}).get(leaf) == Config().get(leaf)
    with pytest.raises(LuminaError, match="cannot be 'perhaps'"):
        Config(**{word: "perhaps"})


@pytest.mark.covers("DAT-25: cache with measured hit rate", "DAT-23: data caching")
def test_what_the_cache_gave_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "data.txt"
    file.write_text("One text.\n<|endoftext|>\nAnother text.\n" * 20)
    config = Config(train_data=(str(file),), tokenizer_vocab_size=270, num_workers=0)
    found = [prepare(config).stats["cache"] for _ in range(2)]
    assert found == ["0 of 2 found", "2 of 2 found"]  # tokenizer and store
    other = config.replace(eval_fraction=0.5)
    assert prepare(other).stats["cache"] == "0 of 2 found"


@pytest.mark.covers("DAT-25: 0 workers on MPS")
@pytest.mark.parametrize(
    ("options", "there", "threads"),
    [
        ({"device": "mps"}, True, 0),
        ({"device": "auto"}, True, 0),
        ({"device": "auto"}, False, os.cpu_count() or 1),
        ({"device": "cpu"}, True, os.cpu_count() or 1),
        ({"device": "mps", "num_workers": 3}, True, 3),
    ],
)
def test_an_apple_gpu_has_no_threads_that_tokenise(
    options: dict[str, object],
    there: bool,
    threads: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: there)
    assert encoding_threads(Config(**options)) == threads


@pytest.mark.covers("DAT-25: --persistent-workers")
def test_workers_that_persist_are_no_option() -> None:
    with pytest.raises(LuminaError) as caught:
        Config(persistent_workers=True)
    assert "live as long as the run" in caught.value.hint


@pytest.mark.covers("CFG-07: shard size vs memory")
def test_a_shard_is_held_against_the_memory_of_the_machine() -> None:
    from lumina.host_memory import host_memory_bytes

    most = host_memory_bytes() // 10**6
    quiet = {"shard_size_mb": most}, {"shard_size_mb": 0}, {"data_loading": "sharded"}
    for leaves in quiet:
        assert not [x for x in Config(**leaves).warnings() if "shard_size_mb" in x]
    (told,) = Config(shard_size_mb=most + 1).warnings()
    assert told.startswith(f"shard_size_mb {most + 1} is more than this machine's ")
    (other,) = Config(shard_size_mb=most + 1, data_loading="streaming").warnings()
    assert "no effect" in other


@pytest.mark.covers("CFG-07: shard size vs memory")
def test_tokens_are_not_read_into_memory_that_has_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "data.txt"
    file.write_text("One text.\n<|endoftext|>\nAnother text.\n" * 20)
    options = dict(train_data=(str(file),), tokenizer_vocab_size=270, num_workers=0)
    held = prepare(Config(**options))
    need = sum(store.bytes_in_memory for store in (held.train, held.eval) if store)
    tokens = sum(len(store.tokens) for store in (held.train, held.eval) if store)
    assert 2 * tokens <= need <= 2 * tokens + tokens // 8 + 2
    assert held.train.tokens.base is None  # an array of its own, not the file's

    monkeypatch.setattr("lumina.data.loading.host_memory_bytes", lambda: need)
    prepare(Config(**options))
    monkeypatch.setattr("lumina.data.loading.host_memory_bytes", lambda: need - 1)
    with pytest.raises(LuminaError, match=r"E202.*the tokens of the data take") as told:
        prepare(Config(**options))
    assert "--data-loading sharded" in told.value.hint
    prepare(Config(**options, data_loading="sharded"))
