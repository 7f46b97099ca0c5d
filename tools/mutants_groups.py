"""From which files mutants are drawn: equally many from every group of a set."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

GROUPS = {
    "rooms": {
        "numerics": ("ops", "model", "optim"),
        "controls": (
            "train/controls",
            "train/resume_plan.py",
            "train/shape_from_weights.py",
            "train/signals.py",
            "train/rules",
            "train/finish.py",
            "train/loop.py",
            "train/step.py",
        ),
        "resume": (
            "state",
            "train/resume.py",
            "train/start.py",
            "train/run_folder.py",
        ),
        "data": ("data",),
        "reports": ("observe", "measure", "train/recorder.py"),
    },
    "decisions": {
        "orchestrator": ("train/orchestrator",),
        "health": ("train/health",),
        "rules": ("train/rules", "train/controls"),
        "matrix": ("train/matrix",),
        "plan": ("plan",),
        "streamed": ("assemble/streamed", "optim/streamed_slot.py", "optim/paging"),
        "serving": ("infer/serving",),
        "decoding": ("infer/decoding", "infer/kv", "infer/sampling.py"),
        "numerics": ("ops", "model"),
        "explain": ("cli/explain.py", "cli/explain_run.py", "found_by_name.py"),
        "communication": ("train/profiling", "cli/profile_commands"),
        "data": ("data",),
    },
}
"""Sets of groups: by name, the files and folders of src/lumina."""

BEGINS = re.compile(r"^@@ -\S+ \+(\d+)(?:,(\d+))? @@", re.MULTILINE)
"""Where a hunk of `git diff` begins in the new file, and how many lines it has."""


def files_of(root: Path, names: tuple[str, ...]) -> Iterator[str]:
    """The files of a group, below the root."""
    base = root / "src" / "lumina"
    for name in names:
        found = [base / name] if name.endswith(".py") else (base / name).rglob("*.py")
        for path in sorted(found):
            if path.is_file():
                yield path.relative_to(root).as_posix()


def changed_lines(root: Path, file: str, since: str) -> set[int]:
    """Lines of a file that are not as a commit had them.

    Raises:
        subprocess.CalledProcessError: git does not know the commit.
    """
    command = ["git", "-C", str(root), "diff", "--unified=0", since, "--", file]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    lines: set[int] = set()
    for first, count in BEGINS.findall(told):
        lines.update(range(int(first), int(first) + int(count or 1)))
    return lines
