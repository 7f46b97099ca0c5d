"""What the pages tell people to type works: commands, files and Python.

The pages of `RUN` are followed from their top to their bottom, as a person would, with
runs of fewer and shorter steps. Of all other pages every command is parsed, and its
options checked. A block that is not run says so on the page, in the line below it that
begins with "*Not run by the tests:".
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from lumina.cli.documented_flags import translated
from lumina.cli.main import ALSO, COMMANDS, main
from lumina.cli.parsing import Parser, parse
from tiny_runs import story

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RUN = (
    "first-run", "fine-tune", "pretrain", "python", "run-folder", "report", "hardware",
    "sparse", "adaptive", "practice", "checkpoints",
)  # fmt: skip
SHOWN = {
    "adaptive": "DOC-01: adaptive-training guide",
    "sparse": "DOC-01: sparse-architecture tutorial",
    "practice": "DOC-01: best-practice guide",
    "first-run": "DOC-02: integration (full pipeline, resume)",
}
SKIP = "*Not run by the tests:"
SMALL = {
    "--global-batch-size": "2", "--batch-size": "2", "--seq-length": "64",
    "--eval-batches": "1",
}  # fmt: skip


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    kind: str
    text: str
    skipped: bool

    @property
    def commands(self) -> list[list[str]]:
        """The words of each line that is a command of Lumina's."""
        joined = re.sub(r"\\\n\s*", " ", self.text)
        lines = [line.strip().removeprefix("$ ") for line in joined.splitlines()]
        lines = [line.removeprefix(".venv/bin/") for line in lines]
        found = [shlex.split(line, comments=True) for line in lines
                 if line.startswith("lumina ")]  # fmt: skip
        # Three dots stand for options of one's own.
        return [[w for w in words[1:] if w not in ("...", "…")] for words in found]


def blocks(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    fence = re.compile(r"^```(\w*)\n(.*?)^```\n+([^\n]*)", re.M | re.S)
    return [
        Block(path.stem, match[1], match[2], match[3].startswith(SKIP))
        for match in fence.finditer(text)
    ]


PAGES = [*sorted(DOCS.glob("*.md")), ROOT / "README.md"]


def words_of_all() -> list[tuple[str, list[str]]]:
    return [
        (path.name, words)
        for path in PAGES if path.stem != "LOG"
        for block in blocks(path) for words in block.commands
    ]  # fmt: skip


def parser_of(words: list[str]) -> tuple[Parser, list[str]]:
    """The parser of a command, and the words that it takes."""
    import importlib

    from lumina.cli.groups import chosen

    words = translated(words)
    name, rest = ALSO.get(words[0], words[0]), words[1:]
    module = importlib.import_module(COMMANDS[name][0])
    if hasattr(module, "GROUP"):
        found = chosen(name, "", module.GROUP, rest, getattr(module, "DEFAULT", None))
        assert found is not None
        _, module, rest = found
    parser = Parser(prog=name)
    parser.add_everywhere()
    module.add_arguments(parser)
    return parser, rest


@pytest.mark.covers("DOC-01: README")
def test_every_command_in_the_pages_can_be_typed() -> None:
    seen = 0
    for page, words in words_of_all():
        if words[0].startswith("-") or "--help" in words:
            continue
        parser, rest = parser_of(words)
        try:
            parse(parser, rest)
        except BaseException as error:
            pytest.fail(f"{page}: lumina {shlex.join(words)}: {error}")
        seen += 1
    assert seen > 60


def test_python_in_the_pages_is_python() -> None:
    for path in PAGES:
        for block in blocks(path):
            if block.kind == "python":
                compile(block.text, f"{path.name}", "exec")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the pages say one needs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LUMINA_EXPERIENCE")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "story.txt").write_text(story())
    (tmp_path / "unseen.txt").write_text(story(20, first=500))
    (tmp_path / "chats.jsonl").write_text(
        "".join(
            json.dumps({"messages": [
                {"role": "user", "content": f"How late is it in room {n}?"},
                {"role": "assistant", "content": f"It is {n} o'clock."},
            ]}) + "\n"
            for n in range(12)
        )
    )  # fmt: skip
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    return tmp_path


def smaller(words: list[str], number: int) -> list[str]:
    """The same command with a run of few steps on short rows."""
    if words[0] != "train" or "--dry-run" in words:
        return words
    words = list(words)
    if "--steps" in words:
        words[words.index("--steps") + 1] = str(2 * number)
    elif "--epochs" not in words and "--resume" not in words:
        words += ["--steps", str(2 * number)]
    if "--save-every-n-batches" in words:
        words[words.index("--save-every-n-batches") + 1] = "1"
    if "--resume" in words:
        return words
    for flag, value in SMALL.items():
        if flag in words:
            words[words.index(flag) + 1] = value
        else:
            words += [flag, value]
    return words


def run_command(words: list[str]) -> None:
    assert main(words) == 0, f"lumina {shlex.join(words)}"


def a_model(folder: Path) -> None:
    """A model as transformers writes it."""
    train = "train --preset dense_10m --hidden-size 64 --num-layers 1 --num-heads 2"
    run_command([*shlex.split(train), "--num-kv-heads", "1", "--train-data", "corpus",
                 "--steps", "1", "--seq-length", "64", "--global-batch-size", "2",
                 "--run-dir", "runs/base"])  # fmt: skip
    run_command(["export", "runs/base", str(folder)])
    shutil.rmtree("runs/base")


@pytest.mark.thorough
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.covers(SHOWN[page]))
        if page in SHOWN
        else page
        for page in RUN
    ],
)
def test_a_page_can_be_followed_from_its_top_to_its_bottom(
    page: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page == "fine-tune":
        a_model(place / "my-model")
    number = done = 0
    if page in ("run-folder", "report", "checkpoints"):
        first = ["train", "--train-data", "corpus/", "--run-dir", "runs/first"]
        run_command(smaller(first, 1))
        number = int(page == "checkpoints")  # which goes on with that run
    session = {"__name__": "__main__"}  # blocks of Python go on from those above
    for block in blocks(DOCS / f"{page}.md"):
        if block.skipped:
            continue
        if block.kind == "python":
            number += 1
            text = re.sub(r"\bsteps=\d+", f"steps={2 * number}", block.text)
            exec(compile(text, page, "exec"), session)
            done += 1
        for words in block.commands:
            number += words[0] == "train"
            run_command(smaller(words, number))
            done += 1
        if block.kind == "json":
            assert json.loads(block.text)
    assert done
    if page == "first-run":
        assert (place / "runs" / "first" / "report.html").is_file()
        assert (place / "exported" / "config.json").is_file()
