"""From a configuration to token stores."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from lumina.batch import IGNORE
from lumina.config import Config
from lumina.data import tokenise
from lumina.data.data_events import OnEvent
from lumina.data.packed_stream import BatchStream
from lumina.data.prepare import Prepared, prepare
from lumina.data.readers import text as text_reader
from lumina.data.text_files import TextFiles
from lumina.data.tokenizer import Tokenizer
from lumina.data.tokenizer_training import vocabulary_size
from lumina.errors import LuminaError
from mechanisms import mechanism
from stand_ins import stand_in


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for part in range(2):
        lines = [
            json.dumps({"text": f"Document {n} of part {part} tells of été {n * n}.\n"})
            for n in range(60)
        ]
        (folder / f"{part}.jsonl").write_text("\n".join(lines))
    return folder


def new_config(*paths: Path, **options: Any) -> Config:
    options.setdefault("tokenizer_vocab_size", 300)
    return Config(train_data=tuple(map(str, paths)), **options)


def contents(prepared: Prepared) -> tuple[list[str], list[str]]:
    stores = (prepared.train, prepared.eval)
    first, second = (
        [prepared.tokenizer.decode(s.document(i)) for i in range(len(s))] if s else []
        for s in stores
    )
    return first, second


def watch(told: list[dict[str, Any]]) -> OnEvent:
    """Keeps the events but those of what is always said."""

    def keep(**event: Any) -> None:
        if event["kind"] not in ("data_forms", "data_example", "chat_template"):
            told.append(event)

    return keep


def conversation(n: int) -> dict[str, Any]:
    turns = [("user", f"What is {n}?"), ("assistant", f"It is {n}, été.")]
    return {"messages": [{"role": r, "content": c} for r, c in turns]}


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(conversation(n)) + "\n" for n in range(40)))
    return path


def test_all_documents_arrive_between_begin_and_end(corpus: Path) -> None:
    prepared = prepare(new_config(corpus))
    train, held_out = contents(prepared)
    assert (len(train), len(held_out)) == (102, 18)
    expected = [
        f"Document {n} of part {part} tells of été {n * n}.\n"
        for part in range(2)
        for n in range(60)
    ]
    end = "<|endoftext|>"
    assert sorted(train + held_out) == sorted(f"{end}{t}{end}" for t in expected)
    size = sum(len(text.encode()) for text in expected)
    assert prepared.eval is not None
    assert prepared.train.bytes + prepared.eval.bytes == size
    assert prepared.stats["train_tokens"] == len(prepared.train.tokens)
    assert prepared.train.loss_tokens == len(prepared.train.tokens) - 102


def test_a_second_call_opens_the_same_store(corpus: Path, cache_folder: Path) -> None:
    stages: list[str] = []

    def progress(stage: str, done: int, total: int) -> None:
        assert done <= total
        stages.append(stage)

    first = prepare(new_config(corpus), on_progress=progress)
    assert not first.stats["cached"]
    assert list(dict.fromkeys(stages)) == ["scan", "tokenizer", "tokenise"]
    stages.clear()
    for file in corpus.iterdir():  # the content decides, not name or date
        file.rename(file.with_name("x" + file.name))
        file.with_name("x" + file.name).touch()
    second = prepare(new_config(corpus), on_progress=progress)
    assert second.stats["cached"] and not stages
    assert second.train.fingerprint == first.train.fingerprint
    (corpus / "x0.jsonl").write_text('{"text": "changed"}\n')
    third = prepare(new_config(corpus))
    assert not third.stats["cached"]
    assert third.train.fingerprint != first.train.fingerprint


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_threads_and_blocks_do_not_change_the_store(
    corpus: Path, chats: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    expected = prepare(new_config(corpus, chats, num_workers=2))
    monkeypatch.setenv("LUMINA_CACHE", str(corpus.parent / "other-cache"))
    monkeypatch.setattr(tokenise, "BLOCK_BYTES", 500)
    used: set[int] = set()
    original = tokenise._encode_block

    def watch(*arguments: Any) -> Any:
        import threading

        used.add(threading.get_ident())
        return original(*arguments)

    monkeypatch.setattr(tokenise, "_encode_block", watch)
    prepared = prepare(new_config(corpus, chats, num_workers=threads))
    assert not prepared.stats["cached"]
    assert prepared.train.fingerprint == expected.train.fingerprint
    assert 1 <= len(used) <= max(threads, 1)


@pytest.mark.covers("DAT-14: assistant tokens alone")
def test_loss_on_the_assistant_only_or_on_all(chats: Path) -> None:
    def taught(prepared: Prepared) -> str:
        stream = BatchStream(
            prepared.train, seq_length=64, global_batch_size=4, seed=0, epochs=1
        )
        step = stream.step(stream.start, micro_batch_size=4)
        assert step is not None
        labels = step.micro_batches[0].labels.flatten().numpy()
        return prepared.tokenizer.decode(labels[labels != IGNORE].tolist())

    assistant = prepare(new_config(chats))
    everything = prepare(new_config(chats, loss_on="all"))
    assert "What is" not in taught(assistant) and "It is" in taught(assistant)
    assert "What is" in taught(everything) and "<|user|>" in taught(everything)
    assert assistant.train.loss_tokens < everything.train.loss_tokens
    # Bytes are those of the text that bears loss.
    said = sum(len(f"It is {n}, été.".encode()) for n in range(40))
    assert assistant.eval is not None
    assert assistant.train.loss_bytes + assistant.eval.loss_bytes == said


def test_evaluation_data_is_used_as_given(corpus: Path, chats: Path) -> None:
    prepared = prepare(new_config(corpus, eval_data=(str(chats),)))
    train, held_out = contents(prepared)
    assert len(train) == 120 and len(held_out) == 40
    assert "<|user|>What is 0?<|end|>" in held_out[0]
    assert contents(prepare(new_config(corpus, eval_fraction=0.5)))[1][59:]
    assert prepare(new_config(corpus, eval_fraction=0.0)).eval is None


def test_a_text_of_many_pieces_is_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_reader, "PIECE_BYTES", 1000)
    monkeypatch.setattr(tokenise, "BLOCK_BYTES", 3000)
    text = "".join(f"Line {n} tells of été {n * n}.\n" for n in range(1000))
    (tmp_path / "a.txt").write_text(text)
    prepared = prepare(new_config(tmp_path / "a.txt"))
    (train,), (held_out,) = contents(prepared)
    end = "<|endoftext|>"
    assert (train + held_out).replace(end, "") == text
    assert train.count(end) == held_out.count(end) == 2
    # Cutting it into pieces changed no token.
    whole = prepared.tokenizer.encode(train.replace(end, ""))
    assert prepared.train.document(0)[1:-1].tolist() == whole


def test_the_tokenizer_never_saw_what_is_held_out(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    original = Tokenizer.train

    def watch(texts: Any, size: int) -> Any:
        kept = list(texts)
        seen.extend(kept)
        return original(kept, size)

    monkeypatch.setattr(Tokenizer, "train", watch)
    train, held_out = contents(prepare(new_config(corpus)))
    strip = "<|endoftext|>"
    assert sorted(seen) == sorted(t.replace(strip, "") for t in train)
    assert not set(seen) & {t.replace(strip, "") for t in held_out}


def test_a_large_corpus_is_sampled_evenly(corpus: Path) -> None:
    files = TextFiles(new_config(corpus))
    sample = list(files.sample(1000))
    assert 700 < sum(len(t.encode()) for t in sample) < 1300
    assert sample == list(files.sample(1000))
    parts = {text.split("of part ")[1][0] for text in sample}
    assert parts == {"0", "1"}


def test_a_given_tokenizer_is_used_and_grows_only_for_chat(
    corpus: Path, chats: Path, shared_data: Path
) -> None:
    path = shared_data / "tokenizers" / "gpt2" / "gpt2_tokenizer.json"
    if not path.is_file():
        pytest.skip("no GPT-2 tokenizer in ../shared/data")
    text = prepare(new_config(corpus, tokenizer=str(path)))
    assert text.tokenizer.vocab_size == 50257
    ids = text.train.document(0)
    # A bare vocabulary names no begin token; it names the end of a text.
    assert ids[0] != 50256
    assert ids[-1] == 50256
    told: list[dict[str, Any]] = []
    for _ in range(2):  # built, then cached
        told.clear()
        chat = prepare(
            new_config(chats, tokenizer=str(path)),
            on_event=watch(told),
        )
        assert chat.tokenizer.vocab_size == chat.stats["vocab_size"] == 50261
        notes = chat.stats["tokenizer_notes"]
        assert any("4 chat markers" in note for note in notes)
        kinds = [event["kind"] for event in told]
        assert kinds == ["chat_markers", "tokenizer", "tokenizer"]
        assert told[0]["severity"] == "warning"
        assert chat.train.tokens.max() == 50260


@pytest.mark.covers("CFG-09: E101 format", "CFG-09: E102 fields")
def test_bad_records_are_counted_and_told_each_time(corpus: Path) -> None:
    path = corpus / "2.jsonl"
    path.write_text('{"text": "good"}\nbroken\n{"txt": 1}\n{"text": "fine"}\n')
    for cached in (False, True):
        told: list[dict[str, Any]] = []
        prepared = prepare(
            new_config(corpus, data_errors="skip"),
            on_event=watch(told),
        )
        assert prepared.stats["cached"] is cached
        assert prepared.stats["skipped_codes"] == {"E101": 1, "E102": 1}
        assert [(s.source, s.line, s.code) for s in prepared.skipped] == [
            (str(path), 2, "E101"),
            (str(path), 3, "E102"),
        ]
        assert [(e["code"], e["line"]) for e in told] == [("E101", 2), ("E102", 3)]
        assert prepared.stats["documents"] == 122
    # What skipping has cached does not hide the errors from one who wants them.
    with pytest.raises(LuminaError) as caught:
        prepare(new_config(corpus))
    assert caught.value.code == "E101" and "line 2" in caught.value.message


def test_nothing_left_after_skipping_is_e105(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('broken\n{"a": 1}\n')
    with pytest.raises(LuminaError) as caught:
        prepare(new_config(tmp_path / "a.jsonl", data_errors="skip"))
    assert caught.value.code == "E105"
    assert (
        "2 bad records" in caught.value.message and "not JSON" in caught.value.message
    )
    with pytest.raises(LuminaError) as caught:
        prepare(Config())
    assert caught.value.code == "E105" and "--train-data" in caught.value.hint


@pytest.mark.parametrize(
    ("books", "lines", "options", "told"),
    [
        (2, 2000, {}, "50% of the text, where 15% is asked for"),
        (3, 2000, {"eval_fraction": 0.1}, "33% of the text, where 10% is asked for"),
        (2, 2000, {"eval_fraction": 0.4}, ""),
        (2, 20, {}, ""),  # a try
        (1, 2000, {}, ""),  # one text is cut
        (6, 2000, {}, ""),
        (2, 2000, {"eval_fraction": 0.0}, ""),
    ],
)
def test_a_book_held_out_that_is_much_of_the_text_is_told_of(
    books: int, lines: int, options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    for n in range(books):
        text = "".join(f"Line {k} of the book number {n}.\n" for k in range(lines))
        (tmp_path / f"{n}.txt").write_text(text * (1 if lines < 100 else 2))
    events: list[dict[str, Any]] = []
    prepare(new_config(tmp_path, **options), on_event=watch(events))
    found = [e["message"] for e in events if e["kind"] == "data_much_held_out"]
    assert len(found) == bool(told)
    if told:
        assert told in found[0] and f"1 of {books} documents" in found[0]


def test_a_single_conversation_is_trained_on_and_said(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(conversation(1)))
    told: list[dict[str, Any]] = []
    prepared = prepare(new_config(tmp_path / "a.jsonl"), on_event=watch(told))
    assert prepared.eval is None and len(prepared.train) == 1
    assert [event["kind"] for event in told] == ["data_no_eval"]


@mechanism(
    "token store: bit flipped",
    component="token store",
    failure="one bit of tokens.bin in the cache is flipped",
    recovery="make again",
    expected="told by an event; the store is the same as before",
)
def test_a_damaged_store_is_made_again(corpus: Path, cache_folder: Path) -> None:
    good = prepare(new_config(corpus)).train.fingerprint
    (tokens,) = cache_folder.glob("stores/*/train/tokens.bin")
    data = bytearray(tokens.read_bytes())
    data[100] ^= 1
    tokens.write_bytes(data)
    told: list[dict[str, Any]] = []
    prepared = prepare(new_config(corpus), on_event=watch(told))
    assert [event["kind"] for event in told] == ["data_cache_damaged"]
    assert prepared.train.fingerprint == good
    prepared.train.verify()


def test_the_vocabulary_follows_the_data_unless_asked_for(corpus: Path) -> None:
    def size(**options: Any) -> int:
        config = new_config(corpus, tokenizer_vocab_size=None, **options)
        return vocabulary_size(config, TextFiles(config).files)

    assert size() == 2048
    assert size(vocab_size=1024) == 1024
    assert prepare(
        new_config(corpus, tokenizer_vocab_size=280)
    ).tokenizer.vocab_size == (280)


KILLED = """
import sys, time
from lumina.config import Config
from lumina.data.prepare import prepare

def slow(stage, done, total):
    if stage == sys.argv[2]:
        print(stage, flush=True)
        time.sleep(10**6)

prepare(
    Config(train_data=(sys.argv[1],), tokenizer_vocab_size=300), on_progress=slow
)
"""


@mechanism(
    "killed while tokens are made",
    component="token store",
    failure="SIGKILL while the tokenizer or the token store is made",
    recovery="make again",
    expected="nothing half made is taken for whole; the store is the same",
)
@pytest.mark.faults
@pytest.mark.parametrize("stage", ["tokenizer", "tokenise"])
def test_a_kill_half_way_leaves_nothing_usable(
    corpus: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(corpus), stage],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().strip() == stage
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert list(cache_folder.glob("*/.tmp-*"))
    assert not list(cache_folder.glob("stores/*/meta.json"))
    prepared = prepare(new_config(corpus))
    assert not prepared.stats["cached"]
    assert not list(cache_folder.glob("*/.tmp-*"))
    monkeypatch.setenv("LUMINA_CACHE", str(corpus.parent / "fresh"))
    assert prepare(new_config(corpus)).train.fingerprint == prepared.train.fingerprint


def test_the_disk_is_checked_before_writing(
    corpus: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lumina.data import cache

    usage = cache.shutil.disk_usage(corpus)._replace(free=2**20)
    monkeypatch.setattr(cache, "shutil", stand_in(shutil, disk_usage=lambda _: usage))
    with pytest.raises(LuminaError) as caught:
        prepare(new_config(corpus))
    assert caught.value.code == "E204"
    assert not list(cache_folder.glob("stores/*/"))


def test_tokens_fit_their_vocabulary(corpus: Path) -> None:
    prepared = prepare(new_config(corpus))
    assert prepared.train.tokens.dtype == np.uint16
    assert int(prepared.train.tokens.max()) < prepared.tokenizer.vocab_size
    assert prepared.train.vocab_size == prepared.tokenizer.vocab_size


def test_characters_without_a_token_are_counted_and_told_each_time(
    tmp_path: Path,
) -> None:
    names = ["<unk>", "<s>", "</s>", "a", "b", "c"]
    model = models.WordLevel({n: i for i, n in enumerate(names)}, unk_token="<unk>")
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.add_special_tokens(["<s>", "</s>"])
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "a.txt").write_text("abcxy" * 3)
    for cached in (False, True):
        told: list[dict[str, Any]] = []
        prepared = prepare(
            new_config(
                tmp_path / "a.txt",
                tokenizer=str(tmp_path / "tokenizer.json"),
                eval_fraction=0.0,
            ),
            on_event=lambda told=told, **e: told.append(e),
        )
        assert prepared.stats["cached"] is cached
        (event,) = (e for e in told if e["kind"] == "data_unknown_characters")
        assert event["severity"] == "warning" and event["count"] == 6


@pytest.mark.parametrize("cached", [False, True])
def test_eval_documents_that_are_trained_on_are_told(
    corpus: Path, tmp_path: Path, cached: bool
) -> None:
    """The evaluation's loss would look better than it is, and nothing would say so."""
    held_out = tmp_path / "held_out.jsonl"
    lines = (corpus / "0.jsonl").read_text().splitlines()[:3]
    held_out.write_text("\n".join([*lines, '{"text": "Not seen before."}']))
    config = new_config(corpus, eval_data=(str(held_out),))
    told: list[dict[str, Any]] = []
    for _ in range(1 + cached):
        told.clear()
        prepare(config, on_event=lambda **event: told.append(event))
    (event,) = (e for e in told if e["kind"] == "eval_data_trained_on")
    assert event["severity"] == "warning" and event["count"] == 3
    assert "3 of the 4 documents of the eval data" in event["message"]
    told.clear()
    held_out.write_text('{"text": "Not seen before."}\n')
    prepare(config, on_event=lambda **event: told.append(event))
    assert "eval_data_trained_on" not in {e["kind"] for e in told}


def test_documents_that_are_all_the_same_are_told_to_be_on_both_sides(
    tmp_path: Path,
) -> None:
    """Equal documents are on one side, but for these there is only one."""
    path = tmp_path / "same.jsonl"
    told: list[str] = []
    for line, both in (("same", True), ("other", False)):
        path.write_text('{"text": "same"}\n' * 4 + f'{{"text": "{line}"}}\n')
        told.clear()
        data = prepare(
            new_config(path, eval_fraction=0.4),
            on_event=lambda **event: told.append(event["kind"]),
        )
        assert data.eval is not None
        assert ("eval_data_trained_on" in told) == both
