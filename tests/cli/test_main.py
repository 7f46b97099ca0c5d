"""The command itself: start-up, exit codes, coded errors."""

from __future__ import annotations

import errno
import subprocess
import sys
import types
from pathlib import Path

import pytest

from lumina.cli import main as command
from lumina.cli.command_words import all_commands
from lumina.cli.documented_flags import FLAGS
from lumina.cli.main import COMMANDS, main
from lumina.errors import LuminaError


def lumina(*words: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lumina", *words],
        capture_output=True,
        text=True,
        timeout=300,
        **kwargs,
    )


@pytest.mark.covers("CFG-01: command lumina")
def test_help_lists_the_commands_and_loads_nothing_heavy() -> None:
    code = (
        "import sys; from lumina.cli.main import main; assert main(['--help']) == 0; "
        "print(sorted({m.split('.')[0] for m in sys.modules} "
        "& {'torch', 'pydantic', 'numpy', 'yaml', 'rich'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_settings_are_shown_without_torch() -> None:
    code = (
        "import sys; from lumina.cli.main import main; "
        "assert main(['config', 'show']) == 0; assert main(['presets']) == 0; "
        "assert main(['runs', '.']) == 0; sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    assert f"usage: lumina {name}" in capsys.readouterr().out


def test_version_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("lumina 0.")
    assert main([]) == 2


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["presest"], "E004", "`lumina presets`"),
        (["--hlep"], "E004", "--help"),
        (["config", "show", "--lerning-rate", "1"], "E004", "--learning-rate"),
        (["config", "show", "--steps"], "E005", "expected one argument"),
        (["config", "show", "--steps", "x"], "E005", "a whole number >= 1"),
        (["config", "show", "--weight-decay", "-1e-3"], "E005", "-1e-3"),
        (["config", "show", "--use-moe", "yes"], "E005", "'yes'"),
        (["config", "show", "--pre", "debug"], "E004", "--preset"),
        (["config"], "E005", "ACTION"),
        (["presets", "b71"], "E001", "'b7'"),
        (["config", "show", "--num-heads", "3"], "E002", "num_heads 3"),
    ],
)
def test_wrong_commands_are_coded_and_end_with_two(
    words: list[str], code: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(code) and says in printed.err
    assert "what to do" in printed.err and "Traceback" not in printed.err
    assert printed.out == ""


def test_process_says_it_on_stderr(tmp_path: Path) -> None:
    done = lumina("config", "show", "--config-file", "none.yaml", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("E104") and "Traceback" not in done.stderr


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Give the table a command that fails."""
    module = types.ModuleType("failing_command")

    def run(args: object) -> int:
        raise error

    module.add_arguments = lambda parser: None  # type: ignore[attr-defined]
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "failing_command", module)
    monkeypatch.setitem(command.COMMANDS, "fail", ("failing_command", "fails"))


class OutOfMemoryError(RuntimeError):
    """Stands for torch's, known by its name."""


OutOfMemoryError.__module__ = "torch"


@pytest.mark.parametrize(
    ("error", "exit_code", "says"),
    [
        (LuminaError("E301", "diverged", "lower it"), 1, "E301"),
        (MemoryError(), 1, "E202"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "E202"),
        (OutOfMemoryError("CUDA out of memory. Tried"), 1, "E201"),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 1, "E204"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 1, "E106"),
        (
            IsADirectoryError(errno.EISDIR, "Is a directory", "x"),
            1,
            "E104 (path not found): x is a folder",
        ),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), 1, "E104"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            RuntimeError("[gloo/transport/tcp/pair.cc:5] Connection closed by peer"),
            1,
            "ended, because another process of this run did",
        ),
        (ZeroDivisionError("a b\nc"), 1, "unexpected ZeroDivisionError: a b c"),
    ],
)
def test_failures_are_put_into_words(
    error: BaseException,
    exit_code: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(monkeypatch, error)
    assert main(["fail"]) == exit_code
    printed = capsys.readouterr().err
    assert printed.startswith(says) and "Traceback" not in printed


@pytest.mark.parametrize("words", [["fail", "--debug"], ["--debug", "fail"]])
@pytest.mark.covers("CFG-12: --debug")
def test_debug_shows_the_traceback(
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failing(monkeypatch, ZeroDivisionError("here"))
    assert main(words) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.covers("CFG-12: --verbose")
def test_verbose_names_the_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["config", "show", "--config-file", str(tmp_path / "none.yaml")]
    main(words)
    assert "because" not in capsys.readouterr().err
    main([*words, "--verbose"])
    assert "because: FileNotFoundError" in capsys.readouterr().err


def test_reader_that_leaves_is_no_failure() -> None:
    words = (
        f"{sys.executable} -m lumina config show --help | true; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", words], capture_output=True, text=True)
    assert done.returncode in (0, 141) and done.stderr == ""


@pytest.mark.covers("CFG-01: all diagnostic and training actions as subcommands")
def test_every_action_of_the_documents_is_a_command() -> None:
    known = {command.words: command for command in all_commands()}
    for flag, meant in FLAGS.items():
        words = tuple(word for word in meant if not word.startswith("-"))
        found = next(
            known[words[:n]] for n in (2, 1) if words[:n] in known and words[:n]
        )
        options = [word for word in meant if word.startswith("-")]
        assert set(options) <= {*found.options, flag}, flag
    for action in ("train", "generate", "chat", "evaluate", "export", "doctor"):
        assert (action,) in known
