"""Tokenisation in shards: killed anywhere, it goes on, and the store is the same."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from lumina import Config
from lumina.data import shards, tokenise
from lumina.data.prepare import Prepared, fit_rows, prepare
from lumina.data.readers import text
from training import start_process


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Texts, a long text, conversations with weights, and some that are refused."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "long.txt").write_text("".join(f"Line {n} of it.\n" for n in range(9000)))
    lines = [json.dumps({"text": f"The text number {n} is here."}) for n in range(60)]
    for n in range(60):
        turns = [
            {"role": "user", "content": f"What is {n}?", "train": n % 3 == 0},
            {"role": "assistant", "content": f"It is {n}. " * (1 + n % 40)},
        ]
        if n % 7 == 0:
            turns[1]["weight"] = 1
        lines.append(json.dumps({"messages": turns}))
    (folder / "records.jsonl").write_text("\n".join(lines))
    small_blocks(monkeypatch)
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    return folder


def config_of(corpus: Path, **leaves: Any) -> Config:
    start = {
        "train_data": (str(corpus),), "tokenizer_vocab_size": 300, "num_workers": 1,
        "data_loading": "sharded", "eval_fraction": 0.2, "seq_length": 64,
    }  # fmt: skip
    return Config(**(start | leaves))


def whole(config: Config) -> Prepared:
    return fit_rows(prepare(config), config, 64)


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenise, "BLOCK_BYTES", 4000)
    monkeypatch.setattr(text, "PIECE_BYTES", 4000)


def small_shards(monkeypatch: pytest.MonkeyPatch, size: int = 20_000) -> None:
    init = _INIT

    def small(self: Any, folder: Path, shard_bytes: int, *rest: Any) -> None:
        init(self, folder, size if shard_bytes else 0, *rest)

    monkeypatch.setattr(shards.Shards, "__init__", small)


_INIT = shards.Shards.__init__


def _build(case: tuple[Path, str, int, int]) -> None:
    """A process that is killed when it has encoded so many blocks."""
    corpus, cache, blocks, shard_bytes = case
    os.environ["LUMINA_CACHE"] = cache
    small_blocks(pytest.MonkeyPatch())  # for as long as the process lives
    small_shards(pytest.MonkeyPatch(), shard_bytes)
    encode = tokenise._encode_block

    def counted(*arguments: Any) -> Any:
        nonlocal blocks
        blocks -= 1
        if blocks < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return encode(*arguments)

    tokenise._encode_block = counted
    prepare(config_of(corpus))
    os._exit(3)  # it was not killed


@pytest.mark.covers("DAT-21", "DAT-41")
def test_a_killed_tokenisation_goes_on(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = whole(config_of(corpus, shard_size_mb=0))
    small_shards(monkeypatch)
    cache = tmp_path / "other"
    done: list[int] = []
    for blocks in (8, 12, 12):  # at three places, the last ones behind what was kept
        child = start_process(_build, (corpus, str(cache), blocks, 20_000))
        child.join()
        assert child.exitcode == -signal.SIGKILL
        done.append(len(list(cache.glob("store-shards/*/*.json"))))
    assert 0 < done[0] <= 2 and done[0] < done[1] < done[2]
    monkeypatch.setenv("LUMINA_CACHE", str(cache))
    again = whole(config_of(corpus))
    assert again.train.fingerprint == straight.train.fingerprint
    assert again.eval is not None and straight.eval is not None
    assert again.eval.fingerprint == straight.eval.fingerprint
    keep = ("documents", "conversations", "long_conversations", "unknown_tokens")
    assert [again.stats[k] for k in keep] == [straight.stats[k] for k in keep]
    assert not list(cache.glob("store-shards/*"))


def test_a_damaged_shard_is_made_again(
    corpus: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    straight = prepare(config_of(corpus, shard_size_mb=0))
    small_shards(monkeypatch)
    cache = tmp_path / "other"
    child = start_process(_build, (corpus, str(cache), 20, 20_000))
    child.join()
    (second,) = cache.glob("store-shards/*/000001.bin")
    data = bytearray(second.read_bytes())
    data[len(data) // 2] ^= 1
    second.write_bytes(bytes(data))
    # Killed again behind it, with shards of another size: those behind it do not fit.
    small_shards(monkeypatch, 9_000)
    child = start_process(_build, (corpus, str(cache), 5, 9_000))
    child.join()
    assert child.exitcode == -signal.SIGKILL
    monkeypatch.setenv("LUMINA_CACHE", str(cache))
    events: list[dict[str, Any]] = []
    again = prepare(config_of(corpus), on_event=lambda **event: events.append(event))
    assert again.train.fingerprint == straight.train.fingerprint
    assert "data_cache_damaged" not in {event["kind"] for event in events}
