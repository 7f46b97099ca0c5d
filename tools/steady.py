"""Runs the quick tests many times, with and without load, and notes every failure.

    .venv/bin/python tools/steady.py --runs 20 --load 2
    .venv/bin/python tools/steady.py --runs 10 --load 2 tests/cli tests/train

Every second run shares the machine: with --load 2, two processes for each core compute
and one writes to the disk while the tests run. Each run adds a line of JSON to
.steady/runs.jsonl, with the tests that failed and the seconds it took; the output of a
run with failures is kept beside it. Runs that were made of the same commit and tests
count, so a command that was stopped goes on where it was. The exit code is 1 as soon
as one of the runs failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
QUICK = "not slow and not gpu and not multigpu"


def main() -> int:
    """Run what is still to be run; 1 when one of all runs failed."""
    options = _options()
    root = options.root.resolve()
    folder = root / ".steady"
    folder.mkdir(exist_ok=True)
    file = folder / "runs.jsonl"
    what = {"commit": _commit(root), "tests": options.tests, "load": options.load}
    done = [line for line in _lines(file) if what.items() <= line.items()]
    for number in range(len(done) + 1, options.runs + 1):
        loaded = bool(options.load) and number % 2 == 0
        with _load(options.load if loaded else 0, folder):
            line = what | {"run": number, "loaded": loaded}
            line |= _run(root, options, folder / f"run-{number}.txt")
        done.append(line)
        with open(file, "a") as out:
            out.write(json.dumps(line) + "\n")
        print(_words(line), flush=True)
    bad = sum(bool(line["code"]) for line in done)
    loaded = sum(line["loaded"] for line in done)
    print(f"{len(done)} runs, {loaded} of them under load, {bad or 'none'} failed")
    return int(bad > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tests", nargs="*", default=[], help="default: all quick tests")
    parser.add_argument("--runs", type=int, default=20, metavar="N")
    parser.add_argument(
        "--load",
        type=int,
        default=0,
        metavar="N",
        help="busy processes for each core in every second run; default: 0",
    )
    parser.add_argument("--jobs", type=int, default=2, help="tests side by side")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    return parser.parse_args()


def _commit(root: Path) -> str:
    """The commit; with changes that are not committed, the time of now as well."""
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(words, capture_output=True, text=True)
    name = done.stdout.strip() or "no commit"
    return f"{name} {time.time():.0f}" if name.endswith("-dirty") else name


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def _run(root: Path, options: argparse.Namespace, log: Path) -> dict[str, Any]:
    """Run the tests once; the log stays only where a test failed."""
    command = [sys.executable, "-m", "pytest", "-m", QUICK]
    if options.jobs > 1:
        command += ["-n", str(options.jobs), "--dist", "worksteal"]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command += ["-p", "no:cacheprovider", f"--junitxml={results}", *options.tests]
        began = time.monotonic()
        with open(log, "w") as out:
            code = subprocess.run(
                command,
                cwd=root,
                env=os.environ
                | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            ).returncode
        seconds = round(time.monotonic() - began, 1)
        cases = ET.parse(results).getroot().iter("testcase") if results.exists() else ()
        outcomes = [(_name(case), _failed(case)) for case in cases]
    if code == 0:
        log.unlink()
    return {
        "code": code,
        "tests_run": len(outcomes),
        "failed": sorted({name for name, failed in outcomes if failed}),
        "seconds": seconds,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
    }


def _name(case: ET.Element) -> str:
    return f"{case.get('classname')}::{case.get('name')}"


def _failed(case: ET.Element) -> bool:
    return case.find("failure") is not None or case.find("error") is not None


@contextlib.contextmanager
def _load(of_each_core: int, folder: Path) -> Iterator[None]:
    """Keep every core busy, and the disk, while it is entered."""
    count = of_each_core * (os.cpu_count() or 1)
    parts = [_COMPUTE] * count + [_WRITE] * bool(count)
    busy = [
        subprocess.Popen([sys.executable, "-c", part, str(folder / "written")])
        for part in parts
    ]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()
        (folder / "written").unlink(missing_ok=True)


# Both end with the process that started them.
_COMPUTE = """
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(n * n for n in range(100_000))
"""
_WRITE = """
import os, sys
parent = os.getppid()
while os.getppid() == parent:
    with open(sys.argv[1], "wb") as file:
        file.write(bytes(2**24))
        os.fsync(file.fileno())
"""


def _words(line: dict[str, Any]) -> str:
    load = "under load" if line["loaded"] else "alone     "
    how = ", ".join(line["failed"]) or ("passed" if not line["code"] else "no result")
    return f"run {line['run']:>2} {load} {line['seconds']:>7.1f} s  {how}"


if __name__ == "__main__":
    sys.exit(main())
