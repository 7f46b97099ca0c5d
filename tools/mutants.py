"""Changes the source on purpose, one place at a time, and asks whether a test notices.

The list (tools/mutants.toml) names for each mutant a file, a text that occurs in it
exactly once, what replaces it, and the tests that must fail then. Every mutant is made
in a temporary copy of src; the checkout itself is not changed. A mutant whose tests
all pass has survived: they do not show what they are named for.

    .venv/bin/python tools/mutants.py --jobs 2 N42 N37

The same tests are run first on an unchanged copy, where all of them must pass. A mutant
with a `reason` changes nothing that a test could see: it is listed and not run.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PASSED, FAILED = 0, 1
"""Exit codes of pytest that are a verdict; every other one is an error."""

SHOWN_LINES = 15


@dataclass(frozen=True)
class Mutant:
    """One change of the source that tests must notice.

    Attributes:
        id: its name on the command line.
        what: it does wrong, for people.
        file: below the root, in src.
        old: occurs in the file exactly once.
        new: takes its place.
        tests: files or node ids, at least one of which must fail.
        reason: why no test can notice it; empty for those that must be noticed.
    """

    id: str
    what: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...] = ()
    reason: str = ""


def read_list(path: Path) -> list[Mutant]:
    """The mutants of a list.

    Raises:
        ValueError: an id occurs twice, or a mutant has neither tests nor a reason.
    """
    found = []
    for entry in tomllib.loads(path.read_text())["mutant"]:
        mutant = Mutant(**(entry | {"tests": tuple(entry.get("tests", ()))}))
        if mutant.id in {other.id for other in found}:
            raise ValueError(f"{path.name}: two mutants are named {mutant.id}")
        if bool(mutant.tests) == bool(mutant.reason):
            raise ValueError(f"{path.name}: {mutant.id} needs either tests or a reason")
        found.append(mutant)
    return found


def change(mutant: Mutant, folder: Path) -> None:
    """Apply a mutant to the copy of src in a folder.

    Raises:
        ValueError: its old text does not occur exactly once, or nothing would change.
    """
    path = folder / mutant.file
    text = path.read_text()
    if (count := text.count(mutant.old)) != 1:
        raise ValueError(
            f"{mutant.id}: its old text occurs {count} times in {mutant.file}"
        )
    if mutant.old == mutant.new:
        raise ValueError(f"{mutant.id} changes nothing")
    path.write_text(text.replace(mutant.old, mutant.new))


def run_tests(root: Path, folder: Path, tests: Iterable[str]) -> tuple[int, str]:
    """Run tests of the root on the src that lies in a folder.

    Returns:
        Exit code of pytest, and what it printed.
    """
    environment = os.environ | {
        "PYTHONPATH": str(folder / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    # Without the plugin: these outcomes say nothing about the real source.
    words = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:ledger_plugin"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, *tests],
        cwd=root,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    return done.returncode, done.stdout


def judge(mutant: Mutant, root: Path) -> tuple[str, str]:
    """Make a mutant and run its tests.

    Returns:
        "killed", "survived" or "error", and what to show of it.
    """
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        copy_source(root, folder)
        try:
            change(mutant, folder)
        except (ValueError, OSError) as error:
            return "error", str(error)
        code, printed = run_tests(root, folder, mutant.tests)
    if code == FAILED:
        return "killed", first_failure(printed)
    if code == PASSED:
        return "survived", ", ".join(mutant.tests)
    return "error", tail(printed)


def first_failure(printed: str) -> str:
    """Name of the test that noticed the mutant."""
    names = [x for x in printed.splitlines() if x.startswith(("FAILED ", "ERROR "))]
    return names[0].split(" - ")[0].split(" ", 1)[1] if names else ""


def tail(printed: str) -> str:
    """The last lines of what pytest printed."""
    return "\n".join(printed.splitlines()[-SHOWN_LINES:])


def copy_source(root: Path, folder: Path) -> None:
    """Copy src of the root into a folder."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(root / "src", folder / "src", ignore=ignored)


def unchanged_passes(root: Path, mutants: list[Mutant]) -> bool:
    """Whether all tests pass on a copy that nothing was changed in; tells if not."""
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy_source(root, Path(name))
        code, printed = run_tests(root, Path(name), tests)
    if code != PASSED:
        print(f"the tests do not pass on the unchanged source\n{tail(printed)}")
    return code == PASSED


def main(argv: list[str] | None = None) -> int:
    """Judge the listed mutants; 1 unless every one of them was killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ids", nargs="*", help="only these (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="mutants at a time")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1])
    parser.add_argument("--list", type=Path, help="default: tools/mutants.toml")
    args = parser.parse_args(argv)
    root = args.root.resolve()
    mutants = read_list(args.list or root / "tools" / "mutants.toml")
    if unknown := set(args.ids) - {mutant.id for mutant in mutants}:
        parser.error(f"not in the list: {', '.join(sorted(unknown))}")
    chosen = [mutant for mutant in mutants if not args.ids or mutant.id in args.ids]
    for mutant in chosen:
        if mutant.reason:
            print(f"equivalent  {mutant.id} ({mutant.what}): {mutant.reason}")
    wanted = [mutant for mutant in chosen if not mutant.reason]
    if wanted and not unchanged_passes(root, wanted):
        return 1
    verdicts = []
    with ThreadPoolExecutor(args.jobs) as pool:
        for mutant, (verdict, detail) in zip(
            wanted, pool.map(lambda m: judge(m, root), wanted), strict=True
        ):
            print(f"{verdict:<11} {mutant.id} ({mutant.what}): {detail}", flush=True)
            verdicts.append(verdict)
    killed = verdicts.count("killed")
    print(f"{killed} of {len(verdicts)} killed")
    return int(killed < len(verdicts))


if __name__ == "__main__":
    sys.exit(main())
