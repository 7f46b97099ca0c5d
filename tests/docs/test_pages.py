"""What the pages tell people to type works: commands, files and Python.

Every page is followed from its top to its bottom, as a person would, with runs of fewer
and shorter steps: see `followed_pages`. A block that is not run says so on the page, in
the line below it that begins with "*Not run by the tests:".
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from followed_pages import (
    DOCS,
    OTHER_PROGRAMS,
    PAGES,
    ROOT,
    SHELL,
    WALKED,
    Block,
    Follower,
    blocks,
    furnish,
    furnish_more,
    run_command,
)
from lumina.cli.documented_flags import translated
from lumina.cli.main import ALSO, COMMANDS
from lumina.cli.parsing import Parser, parse
from lumina.config import Config

SHOWN = {
    "adaptive": "DOC-01: adaptive-training guide",
    "sparse": "DOC-01: sparse-architecture tutorial",
    "practice": "DOC-01: best-practice guide",
    "first-run": "DOC-02: integration (full pipeline, resume)",
}
ELSEWHERE = {
    "extending": "tests/examples/test_extending.py",
    "LOG": "tells of the past",
}
"""Pages whose blocks are run by another test, or are not to be typed."""

PYTHON_ELSEWHERE = {"trackers": "tests/observe/test_trackers.py"}
"""Pages of which another test runs the Python."""


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


def test_other_programs_are_named_with_the_reason_why_they_are_not_run() -> None:
    used = {
        line.split()[0].split("/")[-1]
        for path in PAGES if path.stem not in ELSEWHERE
        for block in blocks(path) if block.kind in SHELL and block.commands
        for line in block.lines if not line.startswith(("lumina ", "#"))
    }  # fmt: skip
    assert used <= {*OTHER_PROGRAMS}, "a line that no test types, and nobody says why"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with everything that the pages say one needs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LUMINA_EXPERIENCE")
    furnish(tmp_path)
    return tmp_path


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
        for page in WALKED
    ],
)
def test_a_page_can_be_followed_from_its_top_to_its_bottom(
    page: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page == "fine-tune":
        a_model(place / "my-model")
    follower, done = Follower(page), 0
    if page in ("run-folder", "report", "checkpoints"):
        follower.follow(["train", "--train-data", "corpus/", "--run-dir", "runs/first"])
        follower.trained = int(page == "checkpoints")  # which goes on with that run
    session: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(DOCS / f"{page}.md"):
        if not block.skipped:
            done += typed(block, follower, session)
    assert done
    if page == "first-run":
        assert (place / "runs" / "first" / "report.html").is_file()
        assert (place / "exported" / "config.json").is_file()


def typed(block: Block, follower: Follower, session: dict[str, Any]) -> int:
    """Type what a block shows; how much that was.

    Args:
        block: of the page.
        follower: who types.
        session: of Python, which goes on from the blocks above.
    """
    done = 0
    if block.kind == "python" and block.page not in PYTHON_ELSEWHERE:
        follower.trained += 1
        text = re.sub(r"\bsteps=\d+", f"steps={2 * follower.trained}", block.text)
        exec(compile(text, block.page, "exec"), session)
        done += 1
    for words in block.commands:
        follower.follow(words)
        done += 1
    if block.kind == "json":
        assert json.loads(block.text)
    if block.kind == "yaml":
        file = Path("block.yaml")
        file.write_text(block.text)
        if "grid:" in block.text:
            words = ["sweep", "--config-file", "run.yaml", "--sweep-file", str(file)]
            run_command([*words, "--list-runs"])
        else:
            assert Config.resolve(file=file)
        done += 1
    return done


@pytest.fixture(scope="module")
def furnished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models and runs for all pages that begin with them."""
    folder = tmp_path_factory.mktemp("pages") / "place"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("LUMINA_CACHE", str(folder / "cache"))
        furnish(folder)
        furnish_more(folder)
    return folder


OTHERS = [
    path.stem
    for path in PAGES
    if path.stem not in (*WALKED, *ELSEWHERE)
    and any(
        not block.skipped and (block.commands or block.kind in ("python", "yaml"))
        for block in blocks(path)
    )
]


@pytest.mark.thorough
@pytest.mark.parametrize("page", OTHERS)
def test_all_that_a_page_shows_can_be_typed(
    page: str, furnished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    shutil.copytree(furnished, place)
    monkeypatch.chdir(place)
    monkeypatch.setenv("LUMINA_CACHE", str(place / "cache"))
    ends_at_once(monkeypatch)
    follower = Follower(page)
    session: dict[str, Any] = {"__name__": "__main__"}
    path = ROOT / "README.md" if page == "README" else DOCS / f"{page}.md"
    assert sum(typed(b, follower, session) for b in blocks(path) if not b.skipped)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "name", sorted(path.name for path in (ROOT / "examples").glob("*.yaml"))
)
def test_an_example_can_be_planned_with_what_its_page_has(
    name: str,
    furnished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(furnished)
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    run_command(["train", "--config-file", f"examples/{name}", "--dry-run"])
    assert "Parameters" in capsys.readouterr().out


def ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`lumina serve` ends when it would listen, and `lumina chat` hears nobody."""
    import io

    from lumina.infer.serving import web

    def listen(*_: object, **__: object) -> None:
        raise OSError(98, "in use")

    monkeypatch.setattr(web, "Server", listen)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
