"""Texts, names and users that a command meets only on some machines."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from infer.networks import tiny, write_run
from lumina.cache_root import cache_root
from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from training import DENSE, words

pytestmark = pytest.mark.thorough


def lumina(folder, *arguments, given: bytes = b"", **environment: str):
    return subprocess.run(
        [sys.executable, "-m", "lumina", *arguments],
        cwd=folder,
        input=given,
        capture_output=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


def test_without_a_home_the_cache_must_be_named(monkeypatch):
    monkeypatch.delenv("LUMINA_CACHE", raising=False)
    monkeypatch.delenv("HOME", raising=False)

    def unknown(_):
        raise KeyError("uid not found")

    monkeypatch.setattr("pwd.getpwuid", unknown)
    with pytest.raises(LuminaError, match="LUMINA_CACHE") as caught:
        cache_root()
    assert caught.value.code == "E104"


def test_a_run_directory_that_is_not_utf8_is_refused_before_the_first_step(
    tmp_path, lumina_cache, tiny_corpus
):
    flags = [*DENSE, *words("--precision fp32 --steps 2"), "--run-dir", b"r\xff"]
    done = lumina(tmp_path, "train", *flags, "--train-data", str(tiny_corpus))
    assert done.returncode == 1
    assert b"E103" in done.stderr and b"step 1/" not in done.stdout
    assert os.listdir(os.fsencode(tmp_path)) == []


@pytest.fixture(scope="module")
def talker(tmp_path_factory) -> str:
    """A run that knows conversations."""
    tokenizer = Tokenizer.train(["the quick brown fox"] * 4, 320).with_chat()
    folder = tmp_path_factory.mktemp("talker") / "run"
    return str(write_run(folder, {7: tiny(tokenizer.vocab_size)}, tokenizer))


@pytest.mark.parametrize("door", ["prompt", "json", "message", "pipe"])
def test_texts_that_are_not_unicode_are_named(
    tmp_path, talker, capsys, monkeypatch, door
):
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "\\ud83d"}\n')
    word = os.fsdecode(b"caf\xe9")  # as Python gives a program its arguments
    given = io.TextIOWrapper(io.BytesIO(b"caf\xe9\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", given)
    command = {
        "prompt": ["generate", talker, "--prompt", word],
        "json": ["generate", talker, "--prompts-file", str(file)],
        "message": ["chat", talker, "--message", word],
        "pipe": ["chat", talker],
    }[door]
    assert main(command) == 1
    said = capsys.readouterr().err
    assert "E103" in said and "unexpected" not in said


LOCALES = {
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0"},
    "strict ascii": {
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii:strict",
    },
    "strict utf-8": {"PYTHONUTF8": "0", "PYTHONIOENCODING": "utf-8:strict"},
    "latin-1": {"PYTHONUTF8": "0", "PYTHONIOENCODING": "latin-1:strict"},
}

CAFE = "caf\N{LATIN SMALL LETTER E WITH ACUTE}"
FEW = words("--temperature 0 --max-new-tokens 4")


@pytest.mark.parametrize("locale", LOCALES)
def test_what_comes_through_a_pipe_is_utf8_in_every_locale(tmp_path, talker, locale):
    """The first line is answered, and the second one is named as what it is."""
    given = CAFE.encode("utf-8-sig") + b"\nna\xefve\n"
    done = lumina(tmp_path, "chat", talker, *FEW, given=given, **LOCALES[locale])
    assert done.returncode == 1
    assert done.stdout.strip(), done.stderr
    assert b"E103" in done.stderr
    assert b"a message is not valid Unicode at character 3" in done.stderr
    assert b"unexpected" not in done.stderr and b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("locale", "door"),
    [("ascii", "argument"), ("strict ascii", "pipe"), ("latin-1", "argument")],
)
def test_prompts_are_utf8_in_every_locale(tmp_path, talker, locale, door):
    asked, given = {
        "argument": (["--prompt", CAFE.encode()], b""),
        "pipe": (["--prompts-file", "-"], CAFE.encode() + b"\n"),
    }[door]
    command = ["generate", talker, *asked, *FEW, "--json"]
    done = lumina(tmp_path, *command, given=given, **LOCALES[locale])
    assert done.returncode == 0, done.stderr
    # JSON escapes what standard output cannot hold: no character becomes "?".
    assert json.loads(done.stdout.decode("ascii"))["prompt"] == CAFE
