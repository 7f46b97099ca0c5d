"""Data sets named by hf://, read by the `datasets` library; nothing here uses a net."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lumina import ConfigPresets
from lumina.data.documents import read_documents
from lumina.data.prepare import prepare
from lumina.data.sources import hub
from lumina.data.sources.find import find_sources
from lumina.errors import LuminaError
from lumina.packages import installed
from training import PATIENCE

pytestmark = pytest.mark.skipif(not installed("datasets"), reason="needs datasets")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    for split, names in (("train", "abc"), ("test", "xy")):
        lines = [json.dumps({"text": f"text {name}", "n": 1}) for name in names]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    yield tmp_path
    hub.described.cache_clear()


def texts(address: str, **how: Any) -> list[str | None]:
    return [document.text for document in read_documents([address], **how)]


def refused(address: str) -> LuminaError:
    with pytest.raises(LuminaError) as caught:
        texts(address)
    return caught.value


def test_splits_of_a_data_set_are_streamed_and_begun_anywhere(folder: Path) -> None:
    train = ["text a", "text b", "text c"]
    unread: list[str] = []
    assert texts(f"hf://{folder}", on_unread=unread.extend) == train
    assert unread == ["n", "n", "n"]
    assert texts(f"hf://{folder}:test") == ["text x", "text y"]
    assert texts(f"hf://{folder}:default:train") == train
    whole = list(read_documents([f"hf://{folder}", folder / "test.jsonl"]))
    for number, document in enumerate(whole):
        again = read_documents(
            [f"hf://{folder}", folder / "test.jsonl"], begin=document.place
        )
        assert list(again) == whole[number:]


def test_a_bad_row_is_named(folder: Path) -> None:
    (folder / "train.jsonl").write_text('{"text": "a"}\n{"text": " "}\n{"text": "c"}')
    assert ", row 2: 'text' is empty" in refused(f"hf://{folder}").message
    assert texts(f"hf://{folder}", errors="skip") == ["a", "c"]


def test_what_is_not_there_is_named(folder: Path) -> None:
    error = refused(f"hf://{folder}:valid")
    assert error.code == "E104" and "'valid'" in error.message
    assert "train, test" in error.hint
    error = refused(f"hf://{folder}:other:train")
    assert error.code == "E104" and "other" in error.message and "default" in str(error)
    for name in ("hf://", "hf://a:b:c:d", "hf://a::b", "hf://a@:b"):
        assert refused(name).code == "E005"


def test_no_program_of_a_data_set_is_run(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    trace = tmp_path / "trace"
    (folder / "set.py").write_text(f"open({str(trace)!r}, 'w').close()\n")
    assert refused(f"hf://{folder}").code in ("E101", "E104", "E105")
    assert not trace.exists()


def test_offline_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused("hf://squad:train")
    assert error.code == "E107" and "OFFLINE" in error.message
    assert "name its files" in error.hint

    def nowhere(*args: Any, **how: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.socket, "create_connection", nowhere)
    error = refused("hf://squad:train")
    assert error.code == "E107" and "Name or service not known" in error.message

    over, ended = threading.Event(), []

    def silent(*args: Any, **how: Any) -> None:
        over.wait(PATIENCE)
        ended.append(True)

    assert hub.REACH_SECONDS < 30
    monkeypatch.setattr(hub, "REACH_SECONDS", 0.05)
    monkeypatch.setattr(hub.socket, "create_connection", silent)
    assert refused("hf://squad:train").code == "E107"
    assert not ended
    over.set()


def test_a_store_is_made_and_known_again(folder: Path) -> None:
    config = ConfigPresets.debug().replace(
        train_data=[f"hf://{folder}"], eval_data=[f"hf://{folder}:test"]
    )
    for cached in (False, True):
        prepared = prepare(config)
        assert prepared.stats["cached"] is cached and len(prepared.train) == 3
        hub.described.cache_clear()
    assert find_sources([f"hf://{folder}"])[0].size >= 0
