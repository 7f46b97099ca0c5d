"""Runs the quick tests many times, with and without load, and notes every failure.

    .venv/bin/python tools/steady.py --runs 20 --load 2
    .venv/bin/python tools/steady.py --runs 10 --load 2 tests/cli tests/train
    python tools/steady.py --runs 20 --load 2 --jobs 10 --at-once 3 --within 560

Every second run shares the machine: with --load 2, two processes for each core compute
and one writes to the disk while the tests run. Each run adds a line of JSON to
.steady/runs.jsonl, with the tests that failed and the seconds it took; the output of a
run with failures is kept beside it. Runs that were made of the same sources and tests
count, so a command that was stopped goes on where it was. When the time of --within is
over, or at Ctrl-C or SIGTERM, the runs under way are interrupted and their failures so
far are noted; they do not count and are made again by the next command. The exit code
is 1 as soon as one of the runs failed, and 3 when not all of them were made.

It needs neither .venv nor an installed lumina: PYTHONPATH=src is enough.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from covered import QUICK

ROOT = Path(__file__).resolve().parents[1]
TO_END = 20.0
"""Seconds kept for runs to tell, when time is over, what has failed so far."""
FAILED, UNFINISHED = 1, 3


class Stop:
    """What time or a signal ends: the runs under way, first politely.

    Attributes:
        asked: whether they were asked to end.
        running: their processes.
    """

    def __init__(self) -> None:
        self.asked = False
        self.running: set[subprocess.Popen[bytes]] = set()

    def listen(self, within: float) -> None:
        """Stop at Ctrl-C, SIGTERM, or when the seconds `within` will soon be over."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, self._come)
        if within < float("inf"):
            left = max(within - TO_END, 0.001)
            signal.setitimer(signal.ITIMER_REAL, left, TO_END - 5)

    def _come(self, number: int, frame: object) -> None:
        """Ctrl-C, at which pytest writes what it has found; the second time kill -9."""
        again, self.asked = self.asked, True
        for process in list(self.running):
            with contextlib.suppress(ProcessLookupError):
                if again:
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    process.send_signal(signal.SIGINT)


def main() -> int:
    """Run what is still to be run; 1 when one of all runs failed."""
    options = _options()
    root = options.root.resolve()
    folder = root / ".steady"
    folder.mkdir(exist_ok=True)
    file = folder / "runs.jsonl"
    what = {
        "sources": _sources(root),
        "tests": options.tests,
        "marks": options.marks,
        "load": options.load,
    }
    known = [line for line in _lines(file) if what.items() <= line.items()]
    over = time.monotonic() + options.within
    stop = Stop()
    stop.listen(options.within)
    while not stop.asked and (batch := _next(known, options, over)):
        loaded = _loaded(batch[0], options)
        with (
            _load(options.load if loaded else 0, folder),
            ThreadPoolExecutor(len(batch)) as pool,
        ):
            logs = [folder / f"run-{number}.txt" for number in batch]
            lines = pool.map(lambda log: _run(root, options, log, stop), logs)
            for number, found in zip(batch, lines, strict=True):
                line = what | {"run": number, "loaded": loaded} | found
                known.append(line)
                with open(file, "a") as out:
                    out.write(json.dumps(line) + "\n")
                print(_words(line), flush=True)
    signal.setitimer(signal.ITIMER_REAL, 0)
    if options.copy:
        _copy(folder, options.copy)
    done = [line for line in known if not line["stopped"]]
    bad = sum(bool(line["code"]) for line in done)
    under = sum(line["loaded"] for line in done)
    print(f"{len(done)} runs, {under} of them under load, {bad or 'none'} failed")
    if any(line["failed"] for line in known) or bad:
        return FAILED
    return UNFINISHED if len(done) < options.runs else 0


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
    parser.add_argument(
        "--at-once", type=int, default=1, metavar="N", help="runs side by side"
    )
    parser.add_argument(
        "--within",
        type=float,
        default=float("inf"),
        metavar="SECONDS",
        help="end by then; default: when all runs are made",
    )
    parser.add_argument("-m", dest="marks", default=QUICK, help="default: quick tests")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout")
    parser.add_argument(
        "--copy", type=Path, metavar="FOLDER", help="for what is left in .steady"
    )
    return parser.parse_args()


def _loaded(number: int, options: argparse.Namespace) -> bool:
    return bool(options.load) and number % 2 == 0


def _next(
    known: list[dict[str, Any]], options: argparse.Namespace, over: float
) -> list[int]:
    """The runs to be made now, side by side; none when time would not be enough."""
    done = [line for line in known if not line["stopped"]]
    left = [
        number
        for number in range(1, options.runs + 1)
        if number not in {line["run"] for line in done}
    ]
    # A run that was stopped in this or an earlier command is begun again only where
    # there is more time than it had.
    for first in left:
        loaded = _loaded(first, options)
        expected = max(
            (line["seconds"] for line in known if line["loaded"] == loaded), default=0
        )
        if time.monotonic() + expected + TO_END < over:
            alike = [number for number in left if _loaded(number, options) == loaded]
            return alike[: options.at_once]
    return []


def _sources(root: Path) -> str:
    """The commit; where there are changes or there is no git, a sum of the files."""
    words = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
    if shutil.which("git"):
        done = subprocess.run(words, capture_output=True, text=True)
        name = done.stdout.strip()
        if done.returncode == 0 and not name.endswith("-dirty"):
            return name
    found = hashlib.sha256()
    for folder in ("src", "tests"):
        for file in sorted((root / folder).rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                found.update(f"{file.relative_to(root)}\n".encode())
                found.update(hashlib.sha256(file.read_bytes()).digest())
    return f"sha256 {found.hexdigest()[:12]}"


def _copy(folder: Path, to: Path) -> None:
    """Copy the lines and the outputs of failed runs, as they are."""
    to.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("run*"):
        shutil.copyfile(file, to / file.name)


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text().splitlines()]


def _run(
    root: Path, options: argparse.Namespace, log: Path, stop: Stop
) -> dict[str, Any]:
    """Run the tests once; the log stays only where a test failed."""
    command = [sys.executable, "-m", "pytest", "-m", options.marks]
    if options.jobs > 1:
        command += ["-n", str(options.jobs), "--dist", "worksteal"]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results.xml"
        command += ["-p", "no:cacheprovider", f"--junitxml={results}", *options.tests]
        began = time.monotonic()
        with (
            open(log, "w") as out,
            subprocess.Popen(
                command,
                cwd=root,
                env=os.environ
                | {"OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": ""},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            ) as process,
        ):
            stop.running.add(process)
            process.wait()
            stop.running.discard(process)
        stopped = stop.asked and process.returncode != 0
        seconds = round(time.monotonic() - began, 1)
        cases = list(ET.parse(results).iter("testcase")) if results.exists() else []
    failed = sorted({_name(case) for case in cases if _failed(case)})
    if not failed and (stopped or process.returncode == 0):
        log.unlink()
    skipped = Counter(
        (part.get("message") or "")[:80]
        for case in cases
        for part in case
        if part.tag == "skipped"
    )
    return {
        "code": process.returncode,
        "stopped": stopped,
        "tests_run": len(cases),
        "failed": failed,
        "skipped": dict(skipped.most_common()),
        "seconds": seconds,
        "jobs": options.jobs,
        "at_once": options.at_once,
        "cores": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": _version("torch"),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


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
    how = ", ".join(line["failed"])
    if not how:
        how = "no result" if line["code"] and not line["stopped"] else "passed"
    if line["stopped"]:
        how += f" (time was over after {line['tests_run']} tests)"
    return f"run {line['run']:>2} {load} {line['seconds']:>7.1f} s  {how}"


if __name__ == "__main__":
    sys.exit(main())
