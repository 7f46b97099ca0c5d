"""Which documents are held out."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest

from lumina.data.documents import read_documents
from lumina.data.split import Scan, Split, choose_split, scan, split_documents
from lumina.errors import LuminaError


def found(hashes: list[int], size: int = 10**6) -> Scan:
    return Scan(np.array(hashes, dtype=np.uint64), size)


@pytest.mark.covers("DAT-39: <5000 samples 85/15, 5000-50000 90/10, >50000 95/5")
@pytest.mark.parametrize(
    ("documents", "held_out"),
    [(2, 1), (100, 15), (4999, 750), (5000, 500), (50000, 5000), (50001, 2500)],
)
def test_the_share_follows_the_number_of_documents(
    documents: int, held_out: int
) -> None:
    generator = random.Random(0)
    scanned = found([generator.getrandbits(64) for _ in range(documents)])
    assert choose_split(scanned, None).held_out.sum() == held_out


@pytest.mark.covers("DAT-39: fixed validation")
def test_a_given_share_and_its_limits() -> None:
    hashes = list(range(10))
    assert choose_split(found(hashes), 0.5).held_out.sum() == 5
    assert choose_split(found(hashes), 0.001).held_out.sum() == 1
    assert choose_split(found(hashes), 0.999).held_out.sum() == 9
    assert not choose_split(found(hashes), 0.0).any
    # Equal documents are never on both sides, unless there are no others.
    assert choose_split(found([5] * 9 + [7]), 0.5).held_out.tolist() == (
        [False] * 9 + [True]
    )
    assert choose_split(found([5] * 4), 0.25).held_out.sum() == 1
    # A text of which there are many copies does not end the choice of others.
    repeated = [0] * 50 + list(range(1, 51))
    assert choose_split(found(repeated), None).held_out.sum() == 15


def sides(path: Path) -> tuple[set[str], set[str]]:
    scanned = scan([path], errors="fatal", max_record_bytes=10**6)
    split = choose_split(scanned, None)
    kept: set[str] = set()
    held: set[str] = set()
    for held_out, document in split_documents(read_documents([path]), split):
        (held if held_out else kept).add(document.text or "")
    return kept, held


def test_the_split_does_not_depend_on_the_order(tmp_path: Path) -> None:
    texts = [f"document {n}" for n in range(200)] + ["twice", "twice"]
    path = tmp_path / "a.jsonl"
    results = []
    for seed in range(3):
        random.Random(seed).shuffle(texts)
        path.write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
        results.append(sides(path))
    assert results[0] == results[1] == results[2]
    kept, held = results[0]
    assert not kept & held and len(held) == 30


@pytest.mark.parametrize(
    "text",
    [
        "".join(f"line {n}\n" for n in range(100)),
        "été 🎉 " * 50,
        "long first line " * 50 + "\nlast\n",
        "ab",
        "\n\na",
    ],
)
def test_a_single_text_is_cut_near_its_end(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text)
    split = choose_split(scan([path], errors="fatal", max_record_bytes=10**6), None)
    parts = list(split_documents(read_documents([path]), split))
    assert [held_out for held_out, _ in parts] == [False, True]
    first, second = (document.text or "" for _, document in parts)
    assert first + second == text and first and second
    if text.count("\n") > 3:
        assert first.endswith("\n")
        assert abs(len(second) / len(text) - 0.15) < 0.02


def test_a_single_text_in_pieces_is_cut_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lumina.data.readers import text

    monkeypatch.setattr(text, "PIECE_BYTES", 200)
    text = "".join(f"line {n} é\n" for n in range(500))
    path = tmp_path / "a.txt"
    path.write_text(text)
    split = choose_split(scan([path], errors="fatal", max_record_bytes=10**6), 0.3)
    parts = list(split_documents(read_documents([path]), split))
    assert "".join(d.text or "" for _, d in parts) == text
    flags = [held_out for held_out, _ in parts]
    assert flags == sorted(flags)
    begins = [d.continues for _, d in parts].count(False)
    assert begins == 2 and not parts[flags.index(True)][1].continues
    held = sum(len(d.text or "") for held_out, d in parts if held_out)
    assert abs(held / len(text) - 0.3) < 0.02


def test_data_that_changes_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    for count in (1, 3):
        split = Split(np.zeros(count, dtype=bool))
        with pytest.raises(LuminaError, match="changed") as caught:
            list(split_documents(read_documents([path]), split))
        assert caught.value.code == "E101"


@pytest.mark.covers("DAT-39: stratified so the evaluation part is representative")
def test_a_stratified_split_takes_the_same_share_of_everything(tmp_path: Path) -> None:
    generator = random.Random(0)
    for name, count in (("large", 300), ("small", 40), ("tiny", 20)):
        lines = []
        for n in range(count):
            words = " ".join(f"{generator.random():.4f}" for _ in range(4 ** (n % 4)))
            turns = [
                {"role": "user", "content": words},
                {"role": "assistant", "content": "so"},
            ]
            record = {"messages": turns} if n % 2 else {"text": words}
            lines.append(json.dumps(record) + "\n")
        (tmp_path / f"{name}.jsonl").write_text("".join(lines + lines[:2]))
    scanned = scan([tmp_path], errors="fatal", max_record_bytes=10**6)
    split = choose_split(scanned, 0.25, stratified=True)
    shares: dict[object, list[bool]] = {}
    copies: dict[object, set[bool]] = {}
    read = split_documents(read_documents([tmp_path]), split)
    for held_out, one in read:
        size = len(one.text or (one.messages or ({},))[0].get("content", ""))
        kinds = (one.source, (one.source, one.messages is None), (one.source, size))
        for kind in kinds:
            shares.setdefault(kind, []).append(held_out)
        copies.setdefault((one.text, str(one.messages)), set()).add(held_out)
    for kind, sides in shares.items():
        assert abs(sum(sides) - len(sides) / 4) <= 2, kind
    assert all(len(sides) == 1 for sides in copies.values())
    assert abs(split.held_out.mean() - 0.25) < 0.01
    # By the hash alone the small source may get any share.
    assert choose_split(scanned, 0.25).held_out.tolist() != split.held_out.tolist()
    assert choose_split(scanned, 0.0, stratified=True).any is False
