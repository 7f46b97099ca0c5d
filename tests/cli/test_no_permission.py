"""Files and folders that this user may not touch: E106, and nothing changes."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lumina.cli.main import COMMANDS, _command, main
from marked_cases import marked
from mechanisms import mechanism

pytestmark = pytest.mark.thorough

NOBODY = 65534

SHAPE = [
    "--no-use-moe", "--hidden-size", "32", "--intermediate-size", "48",
    "--num-layers", "1", "--num-heads", "2", "--num-kv-heads", "1",
    "--seq-length", "32", "--tokenizer-vocab-size", "300", "--batch-size", "4",
    "--global-batch-size", "4", "--eval-batches", "1", "--precision", "fp32",
    "--device", "cpu", "--steps", "2", "--num-workers", "0",
]  # fmt: skip

TRAIN = ["train", *SHAPE, "--train-data", "story.txt"]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that everybody may enter and only its owner may write to."""
    folder = Path(tempfile.mkdtemp())
    story = "".join(f"The cat slept on day {n}.\n" for n in range(90))
    (folder / "story.txt").write_text(story)
    (folder / "open").mkdir()
    (folder / "cache").mkdir()
    for place, mode in ((folder, 0o755), ("open", 0o777), ("cache", 0o777)):
        os.chmod(folder / place, mode)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LUMINA_CACHE", str(folder / "cache"))
    yield folder
    for place in folder.rglob("*"):
        place.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture(scope="module", autouse=True)
def everything_loaded(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What a child imports only when it needs it may lie where it may not read."""
    folder = tmp_path_factory.mktemp("loaded")
    (folder / "story.txt").write_text("The owl slept.\n" * 60)
    run, out = str(folder / "run"), str(folder / "out")
    data = ["--train-data", str(folder / "story.txt")]
    assert main(["train", *SHAPE, *data, "--run-dir", run]) == 0
    assert main(["export", run, out]) == 0
    assert main(["train", "--resume", run, "--steps", "3"]) == 0
    for name in COMMANDS:
        _command(name)


def unprivileged(words: list[str]) -> tuple[int, str]:
    """(exit code, output) of the command by a user who owns nothing here."""
    # A fork, since the child can import nothing: Python's files may be closed to it.
    # The command ends before it computes, but in the test that leaves files out.
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.close(reading)
            if os.geteuid() == 0:
                os.setgroups([])
                os.setgid(NOBODY)
                os.setuid(NOBODY)
            stream = os.fdopen(writing, "w")
            sys.stdout = sys.stderr = stream
            code = main(words)
            stream.flush()
        finally:
            os._exit(code)
    os.close(writing)
    with os.fdopen(reading) as stream:
        output = stream.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), output


def forbid(name: str) -> Callable[[Path], None]:
    def setup(here: Path) -> None:
        path = here / name
        if not path.exists():
            path.write_text("steps: 2\n" if name.endswith(".yaml") else "{}")
        path.chmod(0)

    return setup


def folder_of_data(here: Path) -> None:
    (here / "data").mkdir()
    shutil.copy(here / "story.txt", here / "data")
    (here / "data").chmod(0o700 if os.geteuid() == 0 else 0)


def own_run(here: Path) -> None:
    """A run of somebody else, to be read but not written to."""
    assert main([*TRAIN, "--run-dir", "theirs"]) == 0
    shutil.rmtree(here / "cache")
    (here / "cache").mkdir()
    (here / "cache").chmod(0o777)


def closed_weights(here: Path) -> None:
    """A model folder whose weights only their owner may read."""
    own_run(here)
    assert main(["export", "theirs", "model"]) == 0
    (here / "model/model.safetensors").chmod(0o600 if os.geteuid() == 0 else 0)


def closed_checkpoint(here: Path) -> None:
    """A run whose weights only their owner may read."""
    own_run(here)
    for path in here.glob("theirs/checkpoints/*/*.safetensors"):
        path.chmod(0o600 if os.geteuid() == 0 else 0)


def closed(name: str) -> Callable[[Path], None]:
    def setup(here: Path) -> None:
        (here / name).mkdir(exist_ok=True)
        (here / name).chmod(0o555)

    return setup


CASES: dict[str, tuple[Callable[[Path], None], list[str], str]] = {
    # name: what is forbidden, words, what the message names
    "data": (forbid("story.txt"), TRAIN, "story.txt"),
    "folder of data": (
        folder_of_data, ["train", *SHAPE, "--train-data", "data"], "data"),
    "held-out data": (
        forbid("eval.txt"), [*TRAIN, "--eval-data", "eval.txt"], "eval.txt"),
    "settings": (
        forbid("c.yaml"), [*TRAIN, "--config-file", "c.yaml"], "c.yaml"),
    "tokenizer": (
        forbid("tokenizer.json"), [*TRAIN, "--tokenizer", "tokenizer.json"],
        "tokenizer.json"),
    "run directory": (
        closed("shut"), [*TRAIN, "--run-dir", "shut/run"], "shut"),
    "existing folder": (closed("shut"), [*TRAIN, "--run-dir", "shut"], "shut"),
    "cache": (
        closed("cache"), [*TRAIN, "--run-dir", "open/run"], "cache"),
    "run to resume": (own_run, ["train", "--resume", "theirs"], "theirs"),
    "weights of a folder": (
        closed_weights, ["import", "model", "open/run"], "chmod a+r model/model"),
    "weights to generate with": (
        closed_weights, ["generate", "model", "--prompt", "a"], "chmod a+r"),
    "weights of a run": (
        closed_checkpoint, ["generate", "theirs", "--prompt", "a"], "chmod a+r"),
    "folder of exports": (own_run, ["export", "theirs", "theirs/out"], "theirs"),
}  # fmt: skip


def tree(folder: Path) -> dict[str, object]:
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@mechanism(
    "weights closed to this user",
    component="checkpoint",
    failure="the tensors of a checkpoint may not be read",
    recovery="refuse",
    expected="E106: not taken for damage, and no older checkpoint in its place",
    case="weights of a run",
)
@mechanism(
    "place of the run closed",
    component="run folder",
    failure="the folder that a run is to be made in may not be written",
    recovery="refuse",
    expected="E106 names it; nothing is written",
    case="run directory",
)
@mechanism(
    "data closed to this user",
    component="data",
    failure="a file of data may not be read",
    recovery="refuse",
    expected="E106 names the file; nothing is written",
    case="data",
)
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize(
    "case",
    marked(
        CASES,
        dict.fromkeys(
            ("data", "folder of data", "held-out data"),
            ("CFG-07: permission", "DAT-46: permission checks before training"),
        ),
    ),
)
def test_no_permission(
    case: str, here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    setup, words, names = CASES[case]
    setup(here)
    before = tree(here) if os.geteuid() == 0 else None
    code, output = unprivileged(words)
    assert code == 1 and output.startswith("E106"), (code, output)
    assert "what to do: " in output and names in output
    assert "Traceback" not in output + "".join(capfd.readouterr())
    if before is not None:
        after = {k: v for k, v in tree(here).items() if not k.startswith("cache/")}
        assert after == {k: v for k, v in before.items() if not k.startswith("cache/")}


def test_unreadable_files_are_left_out_on_request(here: Path) -> None:
    shutil.copy(here / "story.txt", here / "other.txt")
    forbid("story.txt")(here)
    words = [*TRAIN, "other.txt", "--data-errors", "skip", "--run-dir", "open/run"]
    code, output = unprivileged(words)
    assert code == 0, output
    events = (here / "open/run/events.jsonl").read_text()
    assert '"E106"' in events and "story.txt" in events
