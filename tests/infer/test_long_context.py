"""Needles and perplexity by position: on a model that is known to read so far."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from infer.networks import tiny, write_run
from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.long_context.examine import (
    DEPTHS,
    _losses,
    _parts,
    examine,
    reach,
    stretched,
)
from lumina.infer.long_context.needles import needle, question, training_texts
from networks import tiny_spec
from tiny_runs import story


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(training_texts(40, 60, 3, seed=9), 300)


class Reader(torch.nn.Module):
    """Knows the number of every fact in the last so many tokens, and nothing else."""

    def __init__(self, tokenizer: Tokenizer, sees: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.spec = SimpleNamespace(padded_vocab_size=tokenizer.vocab_size)
        self.tokenizer, self.sees = tokenizer, sees

    def backbone(self, batch: Any) -> Any:
        ids = batch.input_ids[0].tolist()
        name = self.tokenizer.decode(ids[-40:]).split("number of the ")[-1].split()[0]
        seen = self.tokenizer.decode(ids[-self.sees :])
        wanted = torch.zeros(len(ids), dtype=torch.long)
        if told := re.search(rf"number of the {name} is (\d+)\.", seen):
            whole = self.tokenizer.encode(f" {question(name)} {told[1]}")
            wanted[-len(whole) + 1 :] = torch.tensor(whole[1:])
        return SimpleNamespace(hidden=wanted[None, :, None])

    def _logits(self, hidden: Any, _: Any) -> torch.Tensor:
        return F.one_hot(hidden[..., 0], self.tokenizer.vocab_size).float()


def test_a_needle_is_a_row_with_one_fact_and_its_question(tokenizer: Tokenizer) -> None:
    hay = tokenizer.encode(" The grass is green." * 100)
    for depth in DEPTHS:
        made = needle(tokenizer.encode, [], hay, 150, depth, seed=3)
        assert made is not None and len(made.ids) == 150
        whole = tokenizer.decode([*made.ids, made.answer[-1]])
        number = tokenizer.decode(made.answer).strip()
        assert len(number) == 4 and whole.count(number) == 2
        assert whole.endswith(f"is {number}")
        place = whole.index("The secret") / whole.rindex("The secret")
        assert place == pytest.approx(depth, abs=0.2)
    assert needle(tokenizer.encode, [], hay, 20, 0.5, seed=3) is None


@pytest.mark.covers("EVL-10")
def test_facts_are_found_as_far_back_as_the_model_reads(tokenizer: Tokenizer) -> None:
    near = examine(Reader(tokenizer, 10_000), tokenizer, [80, 160, 400], asked=3)  # type: ignore[arg-type]
    assert [reading.recall for reading in near] == [1, 1, 1]
    assert reach(near) == 400
    far = examine(Reader(tokenizer, 160), tokenizer, [80, 160, 400], asked=3)  # type: ignore[arg-type]
    assert [reading.recall for reading in far[:2]] == [1, 1]
    assert [x.found for x in far[2].needles] == [0, 0, 0, 3, 3]
    assert reach(far) == 160
    assert reach(far[2:]) == 0


@pytest.mark.covers("EVL-10")
def test_the_loss_by_position_is_the_cross_entropy_there() -> None:
    network = tiny().eval()
    ids = torch.randint(0, 60, (1, 201), generator=torch.Generator().manual_seed(1))
    losses = _losses(network, ids[0].tolist())
    logits = network.logits(ids[:, :-1])
    expected = F.cross_entropy(logits[0], ids[0, 1:], reduction="none")
    torch.testing.assert_close(losses.float(), expected, rtol=1e-4, atol=1e-5)
    parts = _parts(losses)
    assert [(part.begin, part.end) for part in parts] == [
        (0, 64), (64, 128), (128, 200),
    ]  # fmt: skip
    assert parts[1].perplexity == pytest.approx(math.exp(losses[64:128].mean()))


def test_stretched_positions() -> None:
    spec = tiny_spec(seq_length=64)
    yarn = stretched(spec, "yarn", 4.0, None)
    assert (yarn.rope_factor, yarn.rope_original_length) == (4.0, 64)
    assert stretched(spec, "yarn", 4.0, 32).rope_original_length == 32
    assert stretched(spec, "linear", 2.0, None).rope_original_length is None
    assert stretched(spec, "llama3", 2.0, None).rope_high_freq_factor == 4.0
    with pytest.raises(LuminaError, match="does not rotate"):
        stretched(tiny_spec(pos_encodings="learned"), "ntk", 2.0, None)


def test_of_a_run(
    tmp_path: Path, tokenizer: Tokenizer, capsys: pytest.CaptureFixture[str]
) -> None:
    network = tiny(tokenizer.vocab_size)
    run = str(write_run(tmp_path / "run", {1: network}, tokenizer))
    data = tmp_path / "long.txt"
    data.write_text(story(80).replace("<|endoftext|>", ""))
    words = ["context", "test", run, "--needles", "1", "--device", "cpu"]
    text = ["--data", str(data), "--lengths", "128", "256", "--rows", "2"]
    assert main([*words, *text, "--json"]) == 0
    own = json.loads(capsys.readouterr().out)
    assert own["positions"] == "rope" and own["trained"] == 64
    assert [(x["length"], x["rows"]) for x in own["readings"]] == [(128, 2), (256, 2)]
    assert own["reach"] == 0
    yarn = ["--rope-scaling", "yarn", "--rope-factor", "4"]
    assert main([*words, *text, *yarn, "--json"]) == 0
    other = json.loads(capsys.readouterr().out)
    assert other["positions"] == "rope, yarn by 4"
    assert other["readings"][0]["parts"] != own["readings"][0]["parts"]
    assert main([*words, "--lengths", "128"]) == 0
    printed = capsys.readouterr().out
    assert "0 of 1" in printed and "perplexity" not in printed
    assert main([*words, "--lengths", "12"]) == 2
    assert "E005" in capsys.readouterr().err
    assert main([*words, "--data", str(data), "--lengths", "100000"]) == 1
    assert "E105" in capsys.readouterr().err


def test_numbers_that_answer_bear_a_loss_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "turns.jsonl"
    words = ["context", "texts", str(path), "--count", "20", "--facts", "2"]
    words += ["--length", "60", "--asked", "3", "--seed", "4"]
    assert main([*words, "--turns"]) == 0
    whole = list(training_texts(20, 60, 2, 4, 3))
    for line, text in zip(path.read_text().splitlines(), whole, strict=True):
        turns = json.loads(line)["messages"]
        assert "".join(turn["content"] for turn in turns) == text
        told = re.findall(r"number of the (\w+) is (\d+)\.", text)
        assert sorted(told[2:]) == sorted(told[:2] * 3)
        numbers = [turn["content"] for turn in turns if turn["role"] == "assistant"]
        assert numbers == [f" {number}." for _, number in told[2:]]
    capsys.readouterr()
    show = ["data", "show", str(path), "--chat-template", f"{path}.jinja"]
    show += ["--tokenizer-vocab-size", "320"]
    assert main(show) == 0
    shown = capsys.readouterr().out.rpartition("text: ")[2]
    assert re.findall(r"⟦ (\d+)\.", shown) == re.findall(r"is (\d+)\.", whole[0])[2:]
    assert main([*words[:2], str(tmp_path / "none.jsonl"), "--asked", "0"]) == 2
    assert "asked 0" in capsys.readouterr().err
    path.unlink()
    assert main([*words, "--turns"]) == 2  # nor is the template written over
    assert "jinja is there already" in capsys.readouterr().err


@pytest.mark.thorough
def test_texts_to_train_on_are_trained_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "texts.jsonl"
    words = ["context", "texts", str(path), "--count", "20", "--facts", "2"]
    assert main([*words, "--length", "60"]) == 0
    texts = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert len(texts) == 20
    for text in texts:
        told = re.findall(r"number of the (\w+) is (\d+)\.", text)
        assert len(told) == 4 and sorted(told[:2]) == sorted(told[2:])
    assert main(words) == 2  # nothing is written over
    assert "is there already" in capsys.readouterr().err
