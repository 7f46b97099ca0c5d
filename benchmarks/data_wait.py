"""How long a step waits for its data on this machine's GPU, by way of loading.

Each way is a run of the command on the same text, ended once `--steps` rows are there;
the first `UNCOUNTED` rows are not counted. A row says how long its step took and how
long it waited for its batch.

    python benchmarks/data_wait.py --out data_wait.json [--loading memory streaming]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
UNCOUNTED = 10
WAYS = ("memory", "sharded", "streaming")


def start_benchmark() -> Any:
    """`benchmarks/start.py`: its runs and its text are used here, too."""
    spec = importlib.util.spec_from_file_location("start", HERE / "start.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(options: list[str], data: Path, work: Path, steps: int) -> list[Any]:
    """The first `steps` rows of a run, which is ended then."""
    run, log = work / f"run-{len(list(work.glob('run-*')))}", work / "log"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(
            [str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")]
        ),
        "LUMINA_CACHE": str(work / "cache"),
    }
    command = [sys.executable, "-m", "lumina", "train", *options, "--eval-fraction"]
    command += ["0", "--steps", str(steps + 1000), "--train-data", str(data)]
    command += ["--run-dir", str(run), "--save-every-n-batches", "0"]
    file = run / "metrics.jsonl"
    with open(log, "w") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            while True:
                lines = file.read_bytes().split(b"\n")[:-1] if file.exists() else []
                if len(lines) >= steps:
                    return [json.loads(line) for line in lines[:steps]]
                if process.poll() is not None:
                    raise SystemExit(f"the run ended early:\n{log.read_text()[-2000:]}")
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()


def main() -> None:
    """Measure, print a line a way, write JSON."""
    start = start_benchmark()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("data_wait.json"))
    parser.add_argument("--loading", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--run", default="Work A", choices=list(start.RUNS))
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--data", type=Path, help="default: Python's own library")
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        data = arguments.data or start.corpus(work / "corpus")
        for way in arguments.loading:
            options = [*start.RUNS[arguments.run], "--data-loading", way]
            rows = rows_of(options, data, work, arguments.steps)[UNCOUNTED:]
            waits = [row["data_wait_seconds"] for row in rows]
            seconds = [row["step_seconds"] for row in rows]
            found.append(
                {
                    "run": arguments.run,
                    "loading": way,
                    "steps": len(rows),
                    "median_step_seconds": statistics.median(seconds),
                    "median_wait_seconds": statistics.median(waits),
                    "longest_wait_seconds": max(waits),
                    "share_waited": sum(waits) / sum(seconds),
                }
            )
            print(found[-1], flush=True)
    import torch

    facts = {
        "benchmark": "data_wait",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "ways": found,
    }
    arguments.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
