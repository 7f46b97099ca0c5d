"""`lumina tokenizer`: train, inspect, compare and extend."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.tiny_runs import story, write_conversations

from lumina.cli.main import main
from lumina.data.documents import read_documents
from lumina.data.tokenizer import Tokenizer
from lumina.data.tokenizer_learning import train_on
from lumina.errors import LuminaError
from lumina.state.weights import open_weights

TINY = [
    "--device", "cpu", "--precision", "fp32", "--hidden-size", "32", "--num-heads", "2",
    "--num-kv-heads", "1", "--intermediate-size", "48", "--num-layers", "2",
    "--seq-length", "32", "--tokenizer-vocab-size", "300", "--global-batch-size", "4",
    "--batch-size", "4", "--eval-batches", "1", "--no-use-moe", "--vocab-size", "300",
]  # fmt: skip


def lumina(*words: object) -> int:
    return main([str(word) for word in words])


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(story(120))
    return path


@pytest.mark.covers("TOK-08: tokenizer training")
def test_training_reads_every_form_and_overwrites_nothing(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    talk = write_conversations(tmp_path / "talk.jsonl")
    out = tmp_path / "made"
    words = ["tokenizer", "train", texts, talk, "--output", out, "--vocab-size", 400]
    assert lumina(*words) == 0
    printed = capsys.readouterr().out
    tokenizer = Tokenizer.from_path(out)
    assert f"{tokenizer.vocab_size:,} tokens from 160 documents" in printed
    assert len(tokenizer.encode("Where did the cat go today?")) < 20
    before = (out / "tokenizer.json").read_bytes()
    assert lumina(*words) != 0
    assert "E002" in capsys.readouterr().err
    assert (out / "tokenizer.json").read_bytes() == before


def test_bad_records_are_refused_or_counted_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"text": "once upon a time"}\nno record\n')
    words = ["tokenizer", "train", data, "--output", tmp_path / "made"]
    assert lumina(*words) != 0
    assert "line 2" in capsys.readouterr().err
    assert lumina(*words, "--data-errors", "skip") == 0
    assert capsys.readouterr().out.count("left out: ") == 1


def test_a_small_bound_thins_the_documents_evenly(tmp_path: Path) -> None:
    letters = random.Random(0)
    path = tmp_path / "words.txt"
    path.write_text(
        "<|endoftext|>".join(
            " ".join("".join(letters.choices("abcdefghij", k=9)) for _ in range(200))
            for _ in range(400)
        )
    )
    most = 80 * 10**6
    learnt = train_on(lambda: read_documents([path]), 300, most)
    assert (learnt.every, learnt.documents) == (2, 200)
    assert learnt.expected_bytes <= most and learnt.words == pytest.approx(40_000, 0.1)
    again = train_on(lambda: read_documents([path]), 300, most)
    assert again.tokenizer.fingerprint == learnt.tokenizer.fingerprint
    few = list(itertools.islice(read_documents([path]), 90))
    whole = train_on(lambda: iter(few), 300, 2**26)
    assert (whole.every, whole.documents) == (1, 90)
    with pytest.raises(LuminaError, match="E005"):
        train_on(lambda: read_documents([path]), 300, 2**20)


_MEMORY = """
import resource, sys
from lumina.data.documents import read_documents
from lumina.data.tokenizer_learning import train_on
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before = peak()
learnt = train_on(lambda: read_documents([sys.argv[1]]), 4000, int(sys.argv[2]))
print(learnt.every, peak() - before)
"""


@pytest.mark.slow
def test_training_needs_no_more_memory_than_its_bound(tmp_path: Path) -> None:
    letters = random.Random(0)
    path = tmp_path / "words.txt"
    with open(path, "w") as handle:
        for _ in range(4000):
            words = ("".join(letters.choices("abcdefghij", k=9)) for _ in range(500))
            handle.write(" ".join(words) + "<|endoftext|>\n")
    bound = 2**28
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(path), str(bound)],
        check=True,
        capture_output=True,
        text=True,
    )
    every, grown = map(int, done.stdout.split())
    assert every == 16
    assert grown < bound


def test_inspecting_counts_tokens_of_each_file(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = Tokenizer.train([story(120)], 400)
    tokenizer.save(tmp_path / "made")
    other = tmp_path / "other.txt"
    other.write_text("déjà vu " * 50)
    words = ["tokenizer", "inspect", tmp_path / "made", texts, other]
    assert lumina(*words, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["kind"] == "BPE of bytes" and found["sample_comes_back"]
    assert found["tokens"] == tokenizer.vocab_size
    assert found["rows_of_a_model"] == -(-tokenizer.vocab_size // 64) * 64
    assert found["texts_begin_with"] == ["<|endoftext|>"]
    rows = {Path(row["source"]).name: row for row in found["sources"]}
    documents = story(120).split("<|endoftext|>")
    assert rows["story.txt"]["tokens"] == sum(
        len(tokenizer.encode(text.rstrip("\n") if text != documents[-1] else text))
        for text in documents
    )
    assert rows["all"]["tokens"] == sum(
        row["tokens"] for name, row in rows.items() if name != "all"
    )
    assert rows["story.txt"]["bytes_per_token"] > rows["other.txt"]["bytes_per_token"]
    used = {i for text in documents for i in tokenizer.encode(text)}
    assert rows["story.txt"]["vocabulary_used"] == pytest.approx(
        len(used) / tokenizer.vocab_size, abs=0.01
    )
    assert lumina(*words) == 0
    assert "<|endoftext|> 0" in capsys.readouterr().out


def test_comparing_shows_what_is_divided_differently(
    texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Tokenizer.train([story(120)], 400).save(tmp_path / "made")
    Tokenizer.train(["nothing of this " * 9], 290).save(tmp_path / "other")
    words = ["tokenizer", "compare", tmp_path / "made", tmp_path / "other"]
    assert lumina(*words, "--files", texts, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    made, other = (one["sources"][0] for one in found["tokenizers"])
    assert made["bytes"] == other["bytes"] and made["tokens"] < other["tokens"]
    for one in found["differences"]:
        assert one["first"] != one["second"] and one["times"] > 1
        assert "".join(one["first"]) == "".join(one["second"]) == one["text"]
    assert lumina(*words[:3], "--files", texts) != 0
    assert "E005" in capsys.readouterr().err


@pytest.fixture(scope="module", params=["tied", "apart"])
def run(request: Any, tiny_corpus: Path, tmp_path_factory: Any) -> Path:
    folder: Path = tmp_path_factory.mktemp("runs") / request.param
    flag = "--tie-embeddings" if request.param == "tied" else "--no-tie-embeddings"
    words = ["train", "--preset", "debug", *TINY, flag, "--train-data", tiny_corpus]
    assert lumina(*words, "--run-dir", folder, "--steps", "2") == 0
    return folder


def test_new_tokens_begin_as_the_mean_of_their_parts(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], tiny_corpus: Path
) -> None:
    tied = run.name == "tied"
    listed = tmp_path / "tokens.txt"
    listed.write_text("schnabeltier\n")
    new = tmp_path / "new"
    many = [f"<extra_{n}>" for n in range(40)]
    words = ["tokenizer", "extend", run, new, "--tokens", *many]
    words += ["--tokens-file", listed]
    before = {f: f.read_bytes() for f in run.rglob("*") if f.is_file()}
    assert lumina(*words) == 0
    assert {f: f.read_bytes() for f in run.rglob("*") if f.is_file()} == before
    old, made = open_weights(run), open_weights(new)
    first, more = (Tokenizer.from_path(one.tokenizer_folder) for one in (old, made))
    assert more.vocab_size == first.vocab_size + 41
    assert made.spec.vocab_size == more.vocab_size
    assert made.spec.padded_vocab_size % 64 == 0
    assert made.spec.padded_vocab_size >= made.spec.vocab_size
    tables = [n for n in old.source.names() if old.source.tensor(n).shape[0] == 320]
    assert len(tables) == (1 if tied else 2)
    for name in tables:
        table, grown = old.source.tensor(name), made.source.tensor(name)
        assert torch.equal(grown[: first.vocab_size], table[: first.vocab_size])
        for token in ("schnabeltier", "<extra_39>"):
            parts = first.encode(token)
            assert len(parts) > 1
            mean = table[parts].double().mean(0).float()
            torch.testing.assert_close(grown[more.token_id(token)], mean)
    assert more.encode("a schnabeltier") == [
        *first.encode("a "), more.token_id("schnabeltier")
    ]  # fmt: skip
    assert lumina(*words) != 0  # nothing is overwritten
    assert "E002" in capsys.readouterr().err
    trained = tmp_path / "trained"
    tune = ["train", "--init-from", new, "--train-data", tiny_corpus, "--steps", "2"]
    tune += ["--device", "cpu", "--global-batch-size", "4", "--batch-size", "4"]
    assert lumina(*tune, "--run-dir", trained) == 0
    assert lumina("export", trained, tmp_path / "hf") == 0
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert theirs("a schnabeltier")["input_ids"] == more.prompt("a schnabeltier")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert model.get_input_embeddings().weight.shape[0] >= more.vocab_size


def test_tokens_that_cannot_be_added_are_refused(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for tokens in (["<|end|>"], ["twice", "twice"], []):
        words = ["tokenizer", "extend", run, tmp_path / "new"]
        assert lumina(*words, *(["--tokens", *tokens] if tokens else [])) != 0
        assert "E005" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_special_tokens_are_not_spelled_by_text() -> None:
    tokenizer = Tokenizer.train([story(40)], 300)
    special = tokenizer.with_tokens(["<tool>"], special=True)
    plain = tokenizer.with_tokens(["<tool>"], special=False)
    index = tokenizer.vocab_size
    assert special.token_id("<tool>") == plain.token_id("<tool>") == index
    assert index not in special.encode("a <tool>")
    assert index in plain.encode("a <tool>")
    assert special.chat_format is not None and special.eos_id == tokenizer.eos_id
