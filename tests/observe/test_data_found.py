"""The report says what was found in the data, and what of it was left out."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from foreign_tokenizers import foreign_tokenizer
from lumina import Trainer
from lumina.observe.data_found import Row, data_rows
from lumina.observe.report import write_report
from reported_run import section


def rows_of(run: Path) -> dict[str, tuple[str, bool]]:
    """The section's lines by name: (text, whether it warns)."""
    found = re.findall(
        r'<tr><th scope="row">(.*?)</th><td( class="warning")?>(.*?)</td></tr>',
        section(run, "data"),
        re.S,
    )
    assert found
    return {
        html.unescape(name): (html.unescape(text), bool(warns))
        for name, warns, text in found
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, lumina_cache) -> Path:
    """A run on a folder in which a little of everything is wrong."""
    from lumina.config import ConfigPresets

    folder = tmp_path_factory.mktemp("odd")
    data = folder / "data"
    data.mkdir()
    (data / "a.txt").write_text("The quick brown fox \u2603 jumps. " * 60)
    short = [
        {"role": "user", "content": "a dog?"},
        {"role": "assistant", "content": "the lazy dog"},
    ]
    long = [short[0], {"role": "assistant", "content": "it is a bar. " * 40}]
    lines = [json.dumps({"messages": turns, "mood": "odd"}) for turns in (short, long)]
    (data / "talk.jsonl").write_text("\n".join([*lines * 4, "{broken", '{"x": 1}']))
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    (data / "big.jsonl").write_text(pointer)
    (data / "table.avro").write_bytes(b"PAR1")
    tokenizer = foreign_tokenizer("never", folder / "tokenizer")
    config = ConfigPresets.debug().replace(
        train_data=(str(data),),
        tokenizer=str(tokenizer),
        run_dir=str(folder / "run"),
        data_errors="skip",
        long_conversations="truncate",
        eval_fraction=0.0,
        use_moe=False,
        hidden_size=32,
        intermediate_size=64,
        num_heads=2,
        num_kv_heads=1,
        seq_length=64,
        global_batch_size=2,
        batch_size=2,
        steps=2,
        warmup_steps=0,
        precision="fp32",
        device="cpu",
    )
    Trainer(config).train()
    return folder / "run"


def test_every_count_stands_in_the_section_on_data(run: Path) -> None:
    found = rows_of(run)
    assert found["read"] == ("9 documents, 8 of them conversations", False)
    learn, warns = found["to learn from"]
    assert re.fullmatch(
        r"9 documents or pieces of such, [\d,]+ tokens, of which [\d,]+ bear loss",
        learn,
    )
    assert not warns
    assert found["bad records left out"] == ("3 (E101 2, E102 1)", True)
    assert found["fields not read"][1] and "mood (8)" in found["fields not read"][0]
    assert found["files not read"][1] and ".avro (1)" in found["files not read"][0]
    characters, warns = found["unknown characters"]
    assert warns and re.match(r"\d+ tokens of the data stand for", characters)
    long, warns = found["long conversations"]
    assert warns and "4 conversations are longer than a row of 64 tokens" in long
    assert "tokens lost" in long
    assert found["held out"] == ("nothing is held out", True)


def test_bad_records_are_named_with_their_place(run: Path) -> None:
    shown = html.unescape(section(run, "data"))
    assert "talk.jsonl, line 9: not JSON" in shown
    assert "talk.jsonl, line 10: no field 'text' or 'messages'" in shown
    assert "big.jsonl, line 1: this is a Git LFS pointer" in shown


def test_what_was_left_out_does_not_get_lost_behind_many_events(run: Path) -> None:
    """The table of events shows the last ones only."""
    events = run / "events.jsonl"
    before = events.read_text()
    last = json.loads(before.splitlines()[-1])
    more = [json.dumps(last | {"message": f"number {n}"}) for n in range(400)]
    try:
        events.write_text(before + "\n".join(more) + "\n")
        write_report(run)
        assert rows_of(run)["bad records left out"][0] == "3 (E101 2, E102 1)"
    finally:
        events.write_text(before)
        write_report(run)


def test_a_resumed_run_shows_the_data_of_its_last_start() -> None:
    def start(documents: int) -> dict:
        found = {"documents": documents, "train_tokens": 9, "train_documents": 1}
        return {"kind": "run_started", "data": {"found": found}}

    skipped = {"kind": "data_rows_without_labels", "message": "m", "severity": "info"}
    rows = data_rows([start(1), skipped, start(2)])
    assert rows == [
        Row("read", "2 documents"),
        Row(
            "to learn from",
            "1 document or pieces of such, 9 tokens, of which 0 bear loss",
        ),
    ]
    new = {"kind": "data_of_a_new_kind", "message": "look", "severity": "warning"}
    assert data_rows([start(2), new])[-1] == Row("of a new kind", "look", True)


def test_of_an_earlier_version_the_events_are_shown() -> None:
    start = {"kind": "run_started", "data": {}}
    bad = {"kind": "data_skipped", "severity": "warning", "code": "E101"}
    bad |= {"message": "a.txt, line 3: no", "data": {"source": "a.txt", "line": 3}}
    assert data_rows([start, bad]) == [Row("E101", "a.txt, line 3: no", True)]
    assert data_rows([start]) == []
    assert data_rows([]) == []
