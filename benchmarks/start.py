"""Seconds from the command to the first finished step, on this machine's GPU.

Each start is a process of its own, stopped once metrics.jsonl holds a row. The first
start of a source tree has an empty compiler cache, the others the one it left behind.
Python's own bytecode cache is kept apart and filled beforehand by one start that does
not count, as in an installation that has run before.

    python benchmarks/start.py --out start.json [--sources OLD/src NEW/src] [--repeat 2]

Several source trees are started in turn, so that the comparison is of one machine and
one hour.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

WORK_A = """--preset debug --no-use-moe --hidden-size 2048 --num-layers 16
    --num-heads 32 --num-kv-heads 8 --head-dim 64 --intermediate-size 8192
    --vocab-size 128256
    --no-tie-embeddings --seq-length 4096 --batch-size 4 --global-batch-size 4"""
RUNS = {"Work A": WORK_A.split()} | {
    name: ["--preset", name] for name in ("m120_speed", "b1", "l2:b1")
}
HERE = Path(__file__).resolve().parents[1] / "src"


def corpus(folder: Path) -> Path:
    """The top level of Python's own library, as text."""
    folder.mkdir()
    for source in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        target = folder / f"{source.name}.txt"
        target.write_bytes(source.read_bytes())
    return folder


def first_step(
    source: Path, options: list[str], data: Path, work: Path
) -> tuple[float, dict[str, float]]:
    """Start a run, wait for its first row, end it; the seconds that took.

    Returns:
        The seconds, and where the run itself says that they went; {} where it does not.
    """
    number = len(list(work.glob("run-*")))
    run = work / f"run-{number}"
    caches = work / f"caches-{source.parent.name}"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")]),
        "PYTHONPYCACHEPREFIX": str(work / "bytecode"),
        "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
        "TRITON_CACHE_DIR": str(caches / "triton"),
        "LUMINA_CACHE": str(caches / "lumina"),
    }
    command = [sys.executable, "-m", "lumina", "train", *options]
    command += ["--train-data", str(data), "--eval-fraction", "0", "--steps", "1000"]
    rows, log = run / "metrics.jsonl", work / f"log-{number}"
    began = time.perf_counter()
    with open(log, "w") as output:
        process = subprocess.Popen(
            [*command, "--run-dir", str(run)],
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            while not (rows.is_file() and rows.read_bytes().endswith(b"\n")):
                if process.poll() is not None:
                    raise SystemExit(f"the run ended early:\n{log.read_text()[-2000:]}")
                time.sleep(0.02)
            return time.perf_counter() - began, told(run / "events.jsonl", process)
        finally:
            process.kill()
            process.wait()


def told(events: Path, process: subprocess.Popen[bytes]) -> dict[str, float]:
    """Seconds of each part of the start, from the run's event."""
    for _ in range(100):  # it is written after the row
        for line in events.read_text().splitlines() if events.is_file() else ():
            if '"started"' in line and (event := json.loads(line))["data"]:
                return dict(event["data"]["seconds"])
        if process.poll() is not None:
            break
        time.sleep(0.02)
    return {}


def main() -> None:
    """Measure, print a line a start, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("start.json"))
    parser.add_argument("--sources", type=Path, nargs="+", default=[HERE])
    parser.add_argument("--repeat", type=int, default=2, help="warm starts of each")
    parser.add_argument("--runs", nargs="+", default=list(RUNS), choices=list(RUNS))
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = corpus(work / "corpus")
        sources = [source.resolve() for source in arguments.sources]
        warm_up = ["--preset", "debug", "--no-use-moe"]
        for source in sources:
            first_step(source, warm_up, data, work)
        for run in arguments.runs:
            for start in range(1 + arguments.repeat):
                for source in sources:
                    seconds, parts = first_step(source, RUNS[run], data, work)
                    kind = "warm" if start else "cold"
                    found.append(
                        {
                            "run": run,
                            "source": source.parent.name,
                            "compiler_cache": kind,
                            "seconds": round(seconds, 2),
                            "parts": parts,
                        }
                    )
                    print(found[-1], flush=True)
    import torch

    facts = {
        "benchmark": "start",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "starts": found,
    }
    arguments.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
