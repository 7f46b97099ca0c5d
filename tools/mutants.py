"""Changes the source on purpose, one place at a time, and asks whether a test notices.

The lists (tools/mutants.toml, of an audit; tools/mutants-seed.toml and
tools/mutants-changed.toml, each drawn by a seed) name for each mutant a file, a text
that occurs in it exactly once, what replaces it, and the tests that must fail then.
Every mutant is made in a temporary copy of src; the checkout itself is not changed. A
mutant whose tests all pass has survived: they do not show what they are named for.

    .venv/bin/python tools/mutants.py run --jobs 2 N42 N37

The same tests are run first on an unchanged copy, where all of them must pass. A mutant
with a `reason` changes nothing that a test could see: it is listed and not run. The
verdicts are kept in .mutants/run.jsonl, and a later run of the same sources and tests
judges only what is left (all of it with --again). With --within it ends by then.

New mutants are drawn from the lines that quick tests reach, and hunted with the tests
that reach them, until one fails; that one is then named in the list:

    .venv/bin/python tools/mutants.py map --jobs 2
    .venv/bin/python tools/mutants.py draw --seed 1 --count 120
    .venv/bin/python tools/mutants.py hunt --jobs 2

All three go on where they were stopped. What a seed has drawn stays in the list, with
its tests, while the source has it; another seed begins anew. The map and the verdicts
lie in .mutants. Another list is drawn from other files (--groups, of
tools/mutants_groups.py), or only from lines that a commit did not have:

    .venv/bin/python tools/mutants.py draw --list tools/mutants-changed.toml \\
        --groups decisions --since ea80547d --seed 17 --count 72
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import mutants_groups
import mutants_map
import mutants_sites
from mutants_list import (
    Drawn,
    Mutant,
    change,
    read_drawn,
    read_list,
    settled,
    write_list,
)

PASSED, FAILED = 0, 1
"""Exit codes of pytest that are a verdict."""

BROKEN = (2, 4)
"""Exit codes when a test file could not be read: a verdict if the mutant can."""

SHOWN_LINES = 15

TEST_FOLDERS = [
    "data",
    "state",
    "optim",
    "ops",
    "observe",
    "measure",
    "objective",
    "model",
    "train",
    "assemble",
]
"""Folders of tests that are mapped: those of the rooms that mutants are drawn from."""

UNFINISHED = 3
"""Exit code where time was over before every mutant was judged."""

HUNG_SECONDS, HELD_BYTES = 120, 12 << 30
"""A test of a mutant that takes longer, or a process that holds more, has failed."""

FIRST_SECONDS, MOST_SECONDS = 15.0, 300.0
"""Recorded seconds of the tests that hunt a mutant: at first, and in all."""

LISTS = ("mutants.toml", "mutants-seed.toml", "mutants-changed.toml")
"""In tools. All but the first are drawn; draw and hunt take the second by default."""


class TimeOverError(Exception):
    """Tests were ended because the time of the whole command was over."""


def run_tests(
    root: Path, folder: Path, tests: Iterable[str], over: float = float("inf")
) -> tuple[int, str]:
    """Run tests of the root on the src that lies in a folder.

    Args:
        root: the checkout.
        folder: holds src.
        tests: as pytest takes them.
        over: the moment, by `time.monotonic`, when they are ended.

    Returns:
        Exit code of pytest, and what it printed.

    Raises:
        TimeOverError: they were ended.
    """
    # What is on the path already stays: torch may be found there and nowhere else.
    path = [str(folder / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    # Without the plugin: these outcomes say nothing about the real source.
    words = ["-q", "-x", "-p", "no:cacheprovider", "-p", "no:ledger_plugin"]
    with subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pytest",
            *words,
            f"--timeout={HUNG_SECONDS}",
            *arguments(tests),
        ],
        cwd=root,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=hold_down,
    ) as process:
        left = over - time.monotonic()
        try:
            printed, _ = process.communicate(
                timeout=max(left, 0) if left < float("inf") else None
            )
        except subprocess.TimeoutExpired:
            raise TimeOverError from None
        finally:
            with contextlib.suppress(ProcessLookupError):  # and children that hang
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, printed


def arguments(tests: Iterable[str]) -> list[str]:
    """Tests as pytest takes them: of some parameters it does not know its own names."""
    plain = (t if "\\" not in t else t.partition("[")[0] for t in tests)
    return list(dict.fromkeys(plain))


def hold_down() -> None:
    """Let a mutant that never stops growing fail before the machine does."""
    resource.setrlimit(resource.RLIMIT_DATA, (HELD_BYTES, HELD_BYTES))


def judge(
    mutant: Mutant, root: Path, tests: Iterable[str], over: float = float("inf")
) -> tuple[str, str]:
    """Make a mutant and run tests on it.

    Returns:
        "killed", "survived" or "error", and what to show of it.

    Raises:
        TimeOverError: the moment `over` came before the tests had ended.
    """
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = Path(name)
        copy_source(root, folder)
        try:
            change(mutant, folder)
        except (ValueError, OSError) as error:
            return "error", str(error)
        code, printed = run_tests(root, folder, tests, over)
    noticed = code in BROKEN and "SyntaxError" not in printed
    if code == FAILED or (noticed and first_failure(printed)):
        return "killed", first_failure(printed)
    if code == PASSED and " passed" not in tail(printed):
        return "error", f"all its tests are skipped here\n{tail(printed)}"
    if code == PASSED:
        return "survived", ", ".join(tests)
    return "error", tail(printed)


def first_failure(printed: str) -> str:
    """Name of the test that noticed the mutant."""
    lines = printed.splitlines()
    names = [line for line in lines if line.startswith(("FAILED test", "ERROR test"))]
    return names[0].split(" - ")[0].split(" ", 1)[1] if names else ""


def tail(printed: str) -> str:
    """The last lines of what pytest printed."""
    return "\n".join(printed.splitlines()[-SHOWN_LINES:])


def copy_source(root: Path, folder: Path) -> None:
    """Copy src of the root into a folder."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(root / "src", folder / "src", ignore=ignored)


def unchanged_passes(root: Path, mutants: list[Mutant], jobs: int, over: float) -> bool:
    """Whether all tests pass on a copy that nothing was changed in; tells if not.

    Raises:
        TimeOverError: the moment `over` came before they had ended.
    """
    tests = list(dict.fromkeys(test for mutant in mutants for test in mutant.tests))
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy_source(root, Path(name))
        parts = [tests[number::jobs] for number in range(min(jobs, len(tests)))]
        with ThreadPoolExecutor(jobs) as pool:
            ended = list(
                pool.map(lambda part: run_tests(root, Path(name), part, over), parts)
            )
    for code, printed in ended:
        if code != PASSED:
            print(f"the tests do not pass on the unchanged source\n{tail(printed)}")
    return all(code == PASSED for code, _ in ended)


def sum_of_files(root: Path) -> str:
    """What tells whether sources or tests have changed since a verdict."""
    found = hashlib.sha256()
    for folder in ("src", "tests"):
        for file in sorted((root / folder).rglob("*.py")):
            found.update(f"{file.relative_to(root)}\n".encode())
            found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()[:12]


def run(args: argparse.Namespace) -> int:
    """Judge the listed mutants; 1 unless every one of them was killed."""
    root, over = args.root, time.monotonic() + args.within
    named = args.list or [root / "tools" / name for name in LISTS]
    lists = [path for path in named if path.exists() or path.name not in LISTS[1:]]
    mutants = [mutant for path in lists for mutant in read_list(path)]
    if unknown := set(args.ids) - {mutant.id for mutant in mutants}:
        print(f"not in the list: {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    chosen = [mutant for mutant in mutants if not args.ids or mutant.id in args.ids]
    for mutant in chosen:
        if mutant.reason:
            print(f"equivalent  {mutant.id} ({mutant.what}): {mutant.reason}")
    wanted = [mutant for mutant in chosen if not mutant.reason]
    results, files = root / ".mutants" / "run.jsonl", sum_of_files(root)
    results.parent.mkdir(exist_ok=True)
    known = {
        one["mutant"]: one
        for one in map(json.loads, lines_of(results))
        if one["files"] == files and one["verdict"] != "error" and not args.again
    }
    # A mutant whose entry was changed has to be judged again.
    left = [mutant for mutant in wanted if described(mutant) not in known]
    verdicts = [
        known[described(mutant)]["verdict"] for mutant in wanted if mutant not in left
    ]

    def judged(mutant: Mutant) -> tuple[str, str] | None:
        try:
            return judge(mutant, root, mutant.tests, over)
        except TimeOverError:
            return None

    try:
        if left and not unchanged_passes(root, left, args.jobs, over):
            return 1
    except TimeOverError:
        print("time was over before the tests had passed on the unchanged source")
        return UNFINISHED
    with ThreadPoolExecutor(args.jobs) as pool, results.open("a") as file:
        for mutant, found in zip(left, pool.map(judged, left), strict=True):
            if found is None:
                continue
            verdict, detail = found
            print(f"{verdict:<11} {mutant.id} ({mutant.what}): {detail}", flush=True)
            verdicts.append(verdict)
            entry = {"files": files, "mutant": described(mutant), "id": mutant.id}
            file.write(json.dumps(entry | {"verdict": verdict, "by": detail}) + "\n")
            file.flush()
    killed = verdicts.count("killed")
    print(f"{killed} of {len(verdicts)} killed")
    if killed < len(verdicts):
        return 1
    if missing := len(wanted) - len(verdicts):
        print(f"time was over before {missing} others were judged")
        return UNFINISHED
    return 0


def described(mutant: Mutant) -> str:
    """A name that changes with the entry of a mutant."""
    text = json.dumps(asdict(mutant), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def lines_of(path: Path) -> list[str]:
    """The lines of a file, none where it does not exist."""
    return path.read_text().splitlines() if path.exists() else []


def make_map(args: argparse.Namespace) -> int:
    """Record what tests reach."""
    folders = args.folders or [f"tests/{name}" for name in TEST_FOLDERS]
    mutants_map.record_all(
        args.root, args.root / ".mutants" / "map", folders, args.jobs
    )
    return 0


def draw(args: argparse.Namespace) -> int:
    """Write the list of a seed; what it holds already stays while the source has it."""
    root, path = args.root, drawn_list(args)
    by = Drawn(args.seed, args.groups, args.since)
    reached = mutants_map.read(root, root / ".mutants" / "map")
    known: dict[str, Mutant] = {}
    if path.exists() and read_drawn(path) == by:
        known = {mutant.id: mutant for mutant in read_list(path, complete=False)}
    drawn: list[Mutant] = []
    groups = mutants_groups.GROUPS[by.groups]
    for number, (group, names) in enumerate(groups.items()):
        sites = [
            site
            for file in mutants_groups.files_of(root, names)
            for site in sites_since(root, file, by.since)
        ]
        found = [site for site in sites if reached.tests(site.file, *site.lines)]
        kept = [site for site in sites if site.id in known]
        share = args.count // len(groups) + (number < args.count % len(groups))
        picked = mutants_sites.pick(found, by.seed, share, kept)
        print(f"{group}: {len(picked)} of {len(found)}, {len(kept)} of them known")
        drawn += [
            known.get(site.id)
            or Mutant(site.id, site.what, site.file, site.old, site.new)
            for site in sorted(picked, key=lambda site: (site.file, site.lines))
        ]
    write_list(path, by, drawn)
    return 0


def sites_since(root: Path, file: str, since: str) -> list[mutants_sites.Site]:
    """Sites of a file in lines that a commit did not have; all without a commit."""
    sites = mutants_sites.sites(root, file)
    if not since:
        return sites
    lines = mutants_groups.changed_lines(root, file, since)
    return [
        site
        for site in sites
        if lines.intersection(range(site.lines[0], site.lines[1] + 1))
    ]


def drawn_list(args: argparse.Namespace) -> Path:
    """The list that draw writes and hunt settles."""
    path: Path = args.list[-1] if args.list else args.root / "tools" / LISTS[1]
    return path


def hunt(args: argparse.Namespace) -> int:
    """Run the tests that reach the unsettled mutants; 1 if some have survived."""
    root, path = args.root, drawn_list(args)
    reached = mutants_map.read(root, root / ".mutants" / "map")
    results = root / ".mutants" / "verdicts.jsonl"
    verdicts = read_verdicts(results) if not args.again else {}
    mutants = read_list(path, complete=False)
    places = {
        site.id: (site.file, *site.lines)
        for file in {mutant.file for mutant in mutants}
        for site in mutants_sites.sites(root, file)
    }
    wanted = [
        mutant
        for mutant in mutants
        if not settled(mutant)
        and mutant.id not in verdicts
        and (not args.ids or mutant.id in args.ids)
    ]

    def chase(mutant: Mutant) -> dict[str, str | float]:
        started = time.monotonic()
        verdict, detail, tried = "survived", "", 0
        tests = reached.tests(*places[mutant.id])
        for part in shares(tests, reached.seconds):
            tried += len(part)
            verdict, detail = judge(mutant, root, part)
            if verdict != "survived":
                break
        told = f"{tried} of {len(tests)} tests" if verdict == "survived" else detail
        seconds = round(time.monotonic() - started, 1)
        return {"id": mutant.id, "verdict": verdict, "by": told, "seconds": seconds}

    with ThreadPoolExecutor(args.jobs) as pool, results.open("a") as file:
        for mutant, result in zip(wanted, pool.map(chase, wanted), strict=True):
            file.write(json.dumps(result) + "\n")
            file.flush()
            verdicts[mutant.id] = result
            told = f"{mutant.id} ({mutant.what}): {result['by']}"
            print(f"{result['verdict']:<11} {told}", flush=True)
    noted = [noted_test(mutant, verdicts.get(mutant.id)) for mutant in mutants]
    write_list(path, read_drawn(path), noted)
    left = [mutant for mutant in noted if not settled(mutant)]
    print(f"{len(left)} of {len(mutants)} are left")
    return int(bool(left))


def read_verdicts(path: Path) -> dict[str, dict[str, str | float]]:
    """The verdicts of hunts before."""
    return {entry["id"]: entry for entry in map(json.loads, lines_of(path))}


def noted_test(mutant: Mutant, result: dict[str, str | float] | None) -> Mutant:
    """A mutant with the test that has killed it, if one has."""
    if result is None or settled(mutant) or result["verdict"] != "killed":
        return mutant
    return replace(mutant, tests=(str(result["by"]),))


def shares(tests: list[str], seconds: dict[str, float]) -> list[list[str]]:
    """The first few tests, then the others, as far as time allows."""
    spent = 0.0
    first: list[str] = []
    rest: list[str] = []
    for test in tests:
        spent += seconds[test]
        if spent <= FIRST_SECONDS or not first:
            first.append(test)
        elif spent <= MOST_SECONDS:
            rest.append(test)
    return [part for part in (first, rest) if part]


def main(argv: list[str] | None = None) -> int:
    """Run a command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True)
    for name, function in {
        "run": run,
        "map": make_map,
        "draw": draw,
        "hunt": hunt,
    }.items():
        told = (function.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=told, description=told)
        command.set_defaults(function=function)
        command.add_argument("--root", type=Path, default=Path(__file__).parents[1])
        if name != "map":
            command.add_argument(
                "--list",
                type=Path,
                action="append",
                help=f"default: {', '.join(LISTS if name == 'run' else LISTS[1:2])}",
            )
        if name in ("run", "hunt"):
            command.add_argument("ids", nargs="*", help="only these (default: all)")
        if name == "run":
            command.add_argument(
                "--within",
                type=float,
                default=float("inf"),
                metavar="SECONDS",
                help="end by then; default: when all are judged",
            )
            command.add_argument(
                "--again", action="store_true", help="also those judged before"
            )
        if name == "map":
            command.add_argument("folders", nargs="*", help="of tests")
        if name == "hunt":
            command.add_argument(
                "--again", action="store_true", help="also those that survived before"
            )
        if name == "draw":
            command.add_argument("--seed", type=int, required=True)
            command.add_argument("--count", type=int, default=120)
            command.add_argument(
                "--groups", choices=mutants_groups.GROUPS, default=Drawn.groups
            )
            command.add_argument(
                "--since",
                default="",
                metavar="COMMIT",
                help="only lines that it did not have; default: all lines",
            )
        else:
            command.add_argument("--jobs", type=int, default=1, help="at a time")
    args = parser.parse_args(argv)
    args.root = args.root.resolve()
    status: int = args.function(args)
    return status


if __name__ == "__main__":
    sys.exit(main())
