"""Training speed of two versions of Lumina on one GPU, in turn: A B B A.

Both versions run in processes that stay, each with its own checkout's `src` and
`benchmarks/work_ab.py`; only one trains at a time, and the other then holds no more
than its state. A block is four turns, A B B A, of a few untimed and `--steps` timed
steps. It gives one ratio of the mean step times, so that a drift of the clock falls on
both alike. Printed are the median of the ratios and its 95% interval from resampling
the blocks.

    python benchmarks/in_turn.py OLD NEW --work A B --blocks 6 --out in_turn.json

OLD and NEW are folders that hold `src` and `benchmarks`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

UNTIMED = 3
"""Steps at the beginning of a turn in which the allocator takes its memory again."""


def serve(work: str) -> None:
    """In the process of a version: a turn for each line that comes in."""
    import torch

    path = Path("benchmarks/work_ab.py").resolve()
    sys.path.insert(0, str(path.parent))  # of this version, not of this script
    module_spec = importlib.util.spec_from_file_location("work_ab", path)
    assert module_spec is not None and module_spec.loader is not None
    work_ab: Any = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(work_ab)
    step, facts = work_ab.lumina_step(work_ab.SHAPES[work], {"compile"})
    done = 0
    answer({"tokens_per_step": facts["tokens_per_step"]})
    for line in sys.stdin:
        seconds = []
        for number in range(UNTIMED + int(line)):
            torch.cuda.synchronize()
            begun = time.perf_counter()
            loss = step(done)
            torch.cuda.synchronize()
            done += 1
            if number >= UNTIMED:
                seconds.append(time.perf_counter() - begun)
        peak = torch.cuda.max_memory_allocated()
        torch.cuda.empty_cache()
        answer({"seconds": seconds, "loss": loss.item(), "peak": peak})


def answer(values: dict[str, Any]) -> None:
    """One line to the driver, apart from whatever else is printed."""
    print("ANSWER", json.dumps(values), file=sys.stderr, flush=True)


class Version:
    """A process of one version."""

    def __init__(self, folder: Path, work: str) -> None:
        source = str(folder / "src")
        paths = [source, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), "--serve", work],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.tokens = self.read()["tokens_per_step"]

    def read(self) -> dict[str, Any]:
        """Its next answer; what it prints otherwise is kept for a failure."""
        assert self.process.stderr is not None
        printed = []
        for line in self.process.stderr:
            if line.startswith("ANSWER "):
                return json.loads(line.removeprefix("ANSWER "))  # type: ignore[no-any-return]
            printed.append(line)
        raise SystemExit("".join(printed[-20:]))

    def turn(self, steps: int) -> dict[str, Any]:
        """Some steps of training."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        return self.read()

    def end(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()


def compare(folders: list[Path], work: str, blocks: int, steps: int) -> dict[str, Any]:
    """Blocks of A B B A; what they gave."""
    versions = [Version(folder, work) for folder in folders]
    try:
        for version in versions:  # compiles
            version.turn(UNTIMED)
        ratios, means = [], ([], [])  # type: ignore[var-annotated]
        ends: list[dict[str, Any]] = [{}, {}]
        for _ in range(blocks):
            seconds: tuple[list[float], list[float]] = ([], [])
            for place in (0, 1, 1, 0):
                ends[place] = versions[place].turn(steps)
                seconds[place].extend(ends[place]["seconds"])
            old, new = (statistics.fmean(s) for s in seconds)
            means[0].append(old)
            means[1].append(new)
            ratios.append(new / old)
    finally:
        for version in versions:
            version.end()
    low, high = interval(ratios)
    return {
        "work": work,
        "blocks": blocks,
        "steps_per_turn": steps,
        "tokens_per_second": [versions[0].tokens / statistics.median(m) for m in means],
        "time_ratio": statistics.median(ratios),
        "interval": [low, high],
        "ratios": ratios,
        "losses": [end["loss"] for end in ends],
        "peak_bytes": [end["peak"] for end in ends],
    }


def interval(ratios: list[float]) -> tuple[float, float]:
    """95% of the medians of resampled blocks."""
    draw = random.Random(0)
    medians = sorted(
        statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(4000)
    )
    return medians[100], medians[-101]


def main() -> int:
    """Compare, print a line for each work, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("versions", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("--work", nargs="+", default=["A", "B"], choices=["A", "B"])
    parser.add_argument("--blocks", type=int, default=6)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--out", default="in_turn.json")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return 0
    if len(arguments.versions) != 2:
        parser.error("name two folders")
    import torch

    results = []
    for work in arguments.work:
        folders = [folder.resolve() for folder in arguments.versions]
        found = compare(folders, work, arguments.blocks, arguments.steps)
        results.append(found)
        old, new = found["tokens_per_second"]
        low, high = found["interval"]
        print(
            f"Work {work}: {old:,.0f} -> {new:,.0f} tokens/s; time new/old "
            f"{found['time_ratio']:.4f} (95% {low:.4f} to {high:.4f})",
            flush=True,
        )
        facts = {
            "benchmark": "in turn",
            "device": torch.cuda.get_device_name(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "date": time.strftime("%Y-%m-%d"),
            "versions": [str(folder) for folder in arguments.versions],
            "results": results,
        }
        Path(arguments.out).write_text(json.dumps(facts, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
