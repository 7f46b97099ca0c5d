"""Generated code is kept apart from the machine, or does not run."""

import sys
from pathlib import Path

import pytest

from lumina.errors import LuminaError
from lumina.measure.code import confine, restricted
from lumina.measure.code.restricted import Limits, run_restricted


@pytest.fixture(scope="module", autouse=True)
def possible() -> None:
    """These show what is protected; where nothing runs, nothing is to be shown."""
    try:
        restricted.check_restricted()
    except LuminaError as error:
        pytest.skip(error.message)


ROOM = """
import os, socket
def tried(what, *given, **named):
    try:
        return what(*given, **named)
    except OSError as error:
        return type(error).__name__
print("folder", os.getcwd(), os.listdir("."))
print("environment", sorted(os.environ))
print("user", os.getuid())
print("there", [x for x in (%r, "/etc/passwd", "/proc", "/sys") if os.path.exists(x)])
print("sockets", [tried(socket.socket, f) for f in (1, 2, 10, 16, 17, 40)])
print("kill", tried(os.kill, 1, 9))
print("own file", tried(open, __file__, "a"), tried(open, os.__file__, "a"))
open("new", "w").write("kept")
print("written", os.listdir("."))
import ctypes
c = ctypes.CDLL(None, use_errno=True)
print("namespaces", c.unshare(0x10000000), c.unshare(0x40000000))
data = (ctypes.c_uint32 * 6)()
c.capget((ctypes.c_uint32 * 2)(0x20080522, 0), data)
print("rights", list(data), c.prctl(39, 0, 0, 0, 0))
import asyncio, json, threading
async def three(): return 3
print("library", asyncio.run(three()), json.loads("[1]"))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What code in there says of the room that it is in."""
    secret = tmp_path_factory.mktemp("home") / "secret"
    secret.write_text("a key")
    ended = run_restricted(ROOM % str(secret))
    assert ended.status == "ok", ended.stderr
    return dict(line.split(" ", 1) for line in ended.stdout.splitlines())


@pytest.mark.covers("EVL-06: code execution tests in a restricted process")
def test_code_sees_an_empty_folder_and_nothing_of_the_machine(
    seen: dict[str, str],
) -> None:
    assert seen["folder"] == "/sandbox []"
    assert seen["written"] == "['new']"
    assert seen["there"] == "[]"
    assert seen["environment"] == "['HOME', 'LANG', 'PYTHONHASHSEED', 'TMPDIR']"
    assert "TextIOWrapper" not in seen["own"], "the library can be written"
    assert seen["library"] == "3 [1]"


def test_code_has_no_network_no_rights_and_no_other_process(
    seen: dict[str, str],
) -> None:
    assert seen["sockets"] == str(["PermissionError"] * 6)
    assert seen["user"] == "65534" and seen["rights"] == "[0, 0, 0, 0, 0, 0] 1"
    assert seen["namespaces"] == "-1 -1"


FORKS = """
import os, time
count = 1
try:
    while count < 100:
        if os.fork() == 0: time.sleep(600)
        count += 1
except OSError as error:
    raise SystemExit(f"{count} {error}")
"""


@pytest.mark.parametrize(
    ("code", "limits", "status", "said"),
    [
        ("while True: pass", {"seconds": 0.5}, "time", "did not end in time"),
        pytest.param(
            "while True: pass",
            {"cpu_seconds": 1, "seconds": 300},
            "processor_time",
            "its processor time",
            marks=pytest.mark.thorough,
        ),
        ("x = [0] * 10**8", {"memory_bytes": 2**28}, "failed", "MemoryError"),
        (
            "n = open('x', 'wb', 0).write(bytes(5000)); 1 / (n - 4096)",
            {"file_bytes": 4096},
            "failed",
            "ZeroDivisionError",
        ),
        (
            "for i in range(9): open(str(i), 'wb').write(bytes(2**16))",
            {"folder_bytes": 2**18},
            "failed",
            "No space left",
        ),
        (FORKS, {"processes": 5}, "failed", "5 [Errno 11]"),
        ("while True: print('a' * 999)", {}, "output", "printed too much"),
        ("import os; os.kill(os.getpid(), 15)", {}, "killed", "killed, -15"),
        ("raise SystemExit(7)", {}, "failed", "failed, 7"),
    ],
)
def test_a_limit_ends_the_code(
    code: str, limits: dict[str, float], status: str, said: str
) -> None:
    ended = run_restricted(code, Limits(**limits))  # type: ignore[arg-type]
    assert ended.status == status and said in ended.reason


def test_what_the_code_started_ends_with_it() -> None:
    """A process in a session of its own, that would write on, has its pipe closed."""
    code = (
        "import os, sys, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    while True: time.sleep(0.01)\n"
        "print('parent ends')"
    )
    # It returns at all: the output is read until nobody holds it any more.
    assert run_restricted(code, Limits(seconds=300)).stdout == "parent ends\n"


def test_what_is_printed_is_read_whatever_it_is() -> None:
    ended = run_restricted("import sys; sys.stdout.buffer.write(b'\\xff\\n')")
    assert ended.stdout == "�\n"
    assert run_restricted("print(input())").reason.startswith("EOFError")


@pytest.mark.parametrize(
    ("given", "missing", "named"),
    [
        ("_MOUNT_SETATTR = 442", "_MOUNT_SETATTR = 4420", "mount_setattr of /"),
        ("_prctl(22, 2,", "_prctl(22, 9,", "seccomp: "),
        ("(155, 41)\n", "(9999, 9999)\n", "pivot_root: "),
        ("_prctl(38, 1)", "_prctl(38, 5)", "no_new_privs: "),
        ("_NEW_USER = 0x10000000", "_NEW_USER = 0x1", "unshare of users: "),
        ("0x08000000 | 0x04000000", "0x1", "unshare of mounts, processes and network"),
        ("least, hard))", "hard + 1, least))", "setrlimit: "),
    ],
)
def test_without_one_of_the_protections_nothing_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: str,
    missing: str,
    named: str,
) -> None:
    """The same program, on a system that does not know one of the calls."""
    source = Path(confine.__file__).read_text()
    assert given in source
    script = tmp_path / "confine.py"
    script.write_text(source.replace(given, missing))
    monkeypatch.setattr(restricted, "_CONFINE", script)
    with pytest.raises(LuminaError) as caught:
        run_restricted("print('it runs')")
    assert caught.value.code == "E003" and named in caught.value.message
    assert "generated code is not run" in caught.value.message


def test_a_processor_whose_system_calls_are_not_listed_is_refused() -> None:
    assert confine.filter_of_calls("aarch64") != confine.filter_of_calls("x86_64")
    with pytest.raises(confine.Refused, match="processor riscv64"):
        confine.filter_of_calls("riscv64")


def test_a_system_without_namespaces_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(LuminaError, match="no namespaces on darwin"):
        run_restricted("print(1)")


def test_limits_make_sense() -> None:
    with pytest.raises(LuminaError, match="seconds is 0"):
        Limits(seconds=0)
