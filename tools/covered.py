"""Which share of the statements the quick tests run, room by room.

    python tools/covered.py run               the quick tests, one folder after another
    python tools/covered.py report FILE.json  what they ran, into a file of results

Tracing makes tests about twice as slow, so CI does not do it: `make coverage` does,
at the lowest priority, and its result is committed. Processes that tests start are
traced too, unless they are killed. Triton's kernels are compiled for a GPU and count as
statements that nothing runs; what only tests on a GPU or the longer tests run counts so
as well.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "build" / "coverage"
QUICK = "not thorough and not faults and not slow and not gpu and not multigpu"
CONFIG = """
[run]
source = {source}
data_file = {data}/part
parallel = true
patch = subprocess
"""


def pieces() -> list[list[str]]:
    """What is run in turn: each folder of tests, then the files beside them."""
    folders = sorted(path.parent for path in (ROOT / "tests").glob("*/test_*.py"))
    files = sorted(str(path) for path in (ROOT / "tests").glob("test_*.py"))
    return [*([str(folder)] for folder in dict.fromkeys(folders)), files]


def run() -> int:
    """Run the quick tests in pieces; the number of pieces in which one failed."""
    DATA.mkdir(parents=True, exist_ok=True)
    config = DATA / "config"
    config.write_text(CONFIG.format(source=ROOT / "src" / "lumina", data=DATA))
    environment = os.environ | {"COVERAGE_RCFILE": str(config), "OMP_NUM_THREADS": "1"}
    failed = 0
    for piece in pieces():
        words = ["-m", "coverage", "run", "-m", "pytest", "-q", "-m", QUICK, *piece]
        done = subprocess.run(
            [sys.executable, *words],
            cwd=ROOT,
            env=environment,
            preexec_fn=lambda: os.nice(19),
        )
        failed += done.returncode not in (0, 5)  # 5: none of its tests is quick
    return failed


def counted(parts: list[Path], combined: Path) -> dict[str, list[int]]:
    """Room -> its statements, and those that ran.

    Args:
        parts: what the processes have recorded.
        combined: a file that all of it may go to.
    """
    import coverage

    found = coverage.Coverage(data_file=str(combined), config_file=False)
    found.combine([str(part) for part in parts], keep=True)
    rooms: dict[str, list[int]] = {}
    for path in sorted((ROOT / "src" / "lumina").rglob("*.py")):
        inside = path.relative_to(ROOT / "src" / "lumina")
        room = inside.parts[0] if len(inside.parts) > 1 else "lumina"
        _, statements, _, missing, _ = found.analysis2(str(path))
        total = rooms.setdefault(room, [0, 0])
        total[0] += len(statements)
        total[1] += len(statements) - len(missing)
    return rooms


def report(file: Path, folder: Path, note: str) -> None:
    """Write the shares of all rooms into a file of results."""
    parts = [path for path in folder.iterdir() if path.name not in ("config", "all")]
    rooms = counted(parts, folder / "all")
    total, ran = (sum(counts[n] for counts in rooms.values()) for n in (0, 1))
    share = ran / total
    result = {
        "benchmark": "coverage of the quick tests",
        "command": "make coverage",
        "covers": ["DOC-02: coverage >=80%"] if share >= 0.8 else [],
        "hardware": f"CPU, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
        "note": note,
        "statements": total,
        "ran": ran,
        "share": round(share, 4),
        "rooms": {
            room: {"statements": n, "ran": done, "share": round(done / n, 4)}
            for room, (n, done) in sorted(rooms.items())
            if n
        },
    }
    file.write_text(json.dumps(result, indent=1) + "\n")
    for room, numbers in result["rooms"].items():  # type: ignore[attr-defined]
        print(f"{room:12} {numbers['share']:7.1%} of {numbers['statements']:6,}")
    print(f"{'all':12} {share:7.1%} of {total:6,}")


def main() -> int:
    """Run the tests, or report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["run", "report"])
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--note", default="")
    asked = parser.parse_args()
    if asked.what == "run":
        return int(run() > 0)
    if asked.file is None:
        parser.error("report needs the file of the result")
    report(asked.file, asked.data, asked.note)
    return 0


if __name__ == "__main__":
    sys.exit(main())
