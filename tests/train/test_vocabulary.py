"""A preset's vocabulary gives way to a tokenizer, and chosen ones clash at once."""

from __future__ import annotations

import json
import string
from pathlib import Path

import pytest

from foreign_tokenizers import foreign_tokenizer
from lumina.cli.main import main
from lumina.config import Config
from lumina.data.tokenizer import Tokenizer
from training import words

pytestmark = pytest.mark.usefixtures("lumina_cache")


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    """A tokenizer of more tokens than the preset `debug` has room for."""
    letters = string.ascii_lowercase
    texts = [f"{a}{b}{c} " * 3 for a in letters for b in letters for c in letters[:8]]
    tokenizer = Tokenizer.train(texts, 3000)
    assert tokenizer.vocab_size > 2048
    folder = tmp_path_factory.mktemp("tokenizer") / "large"
    tokenizer.save(folder)
    return folder


def lumina(capsys, *arguments: str) -> tuple[int, str]:
    code = main(["train", "--device", "cpu", *arguments])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_a_presets_vocabulary_gives_way_to_a_tokenizer(
    large, tiny_corpus, tmp_path, capsys
):
    run = tmp_path / "run"
    flags = words("--steps 2 --global-batch-size 2 --eval-batches 1 --seq-length 32")
    data = words("", train_data=tiny_corpus, tokenizer=large, run_dir=run)
    code, text = lumina(capsys, *flags, *data)
    assert code == 0, text
    known = Tokenizer.from_path(large).vocab_size
    spec = json.loads((run / "plan.json").read_text())["spec"]
    assert spec["vocab_size"] == known <= spec["padded_vocab_size"] < known + 64
    source = Config.load(run / "config.yaml").provenance["vocab_size"]
    assert source.kind == "decided" and "2,048 of preset debug" in source.detail
    code, text = lumina(capsys, *words("--steps 3", resume=run))
    assert code == 0, text


def test_a_tokenizer_to_be_trained_and_the_vocabulary_go_together(tiny_corpus, capsys):
    data = words("--steps 2 --dry-run", train_data=tiny_corpus)
    code, text = lumina(capsys, *data, "--tokenizer-vocab-size", "4096")
    assert code == 0, text
    code, text = lumina(capsys, *data, "--vocab-size", "320")
    assert code == 0 and "vocabulary 320 in 320 rows" in text


@pytest.mark.parametrize(
    ("flags", "room"),
    [("--vocab-size 1024", "1,024"), ("--preset debug --vocab-size 640", "640")],
)
def test_chosen_vocabularies_clash_before_the_data_is_read(
    flags, room, large, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("lumina.data.text_data.prepare", None)
    data = words(flags, train_data=tmp_path, tokenizer=large)
    for planning in ([], ["--dry-run"]):
        code, text = lumina(capsys, *data, *planning)
        assert code != 0 and "E002" in text and room in text
        assert "--vocab-size" in text
    code, text = lumina(
        capsys, *words(flags, train_data=tmp_path, tokenizer_vocab_size=5000)
    )
    assert code != 0 and "E002" in text and "5,000" in text and room in text


def test_markers_of_conversations_that_do_not_fit_are_refused_before_tokens_are_made(
    tmp_path, capsys
):
    folder = foreign_tokenizer("bytes", tmp_path / "plain")
    found = Tokenizer.from_path(folder)
    assert found.with_chat().vocab_size > found.vocab_size
    turns = [{"role": "user", "content": "hen"}, {"role": "assistant", "content": "a"}]
    data = tmp_path / "chat.jsonl"
    data.write_text((json.dumps({"messages": turns}) + "\n") * 4)
    flags = words("--steps 1 --warmup-steps 0", train_data=data, tokenizer=folder)
    code, text = lumina(capsys, *flags, "--vocab-size", str(found.vocab_size))
    assert code != 0 and "E002" in text and "markers of conversations" in text
    flags = ["--preset", "debug", "--global-batch-size", "2", *flags]
    code, text = lumina(capsys, *flags, "--run-dir", str(tmp_path / "run"))
    assert code == 0, text
