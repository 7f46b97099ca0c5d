"""Runs a command while its processes are held up at random moments.

    .venv/bin/python tools/stalls.py --seed 1 make test-more

Now and then one process, of the command or of what it started at any depth, is stopped
(SIGSTOP) and goes on a little later (SIGCONT): most stops last some hundredths of a
second, one in twenty up to --longest seconds. That is what a busy machine does to a
process, only more often and between any two instructions, so that two processes which
agree only as long as both are quick are found out: a race, a timeout that is too short,
a result that depends on how long something took. Stops change no result of a correct
program. The exit code is the command's.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import subprocess
import sys
import threading
import time

import psutil


def main() -> int:
    """Run the command to its end; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, help="of what is stopped when")
    parser.add_argument("--at-once", type=int, default=3, help="processes held up")
    parser.add_argument("--longest", type=float, default=2.0, help="seconds of a stop")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if not options.command:
        parser.error("name the command to run")
    process = subprocess.Popen(options.command)
    over = threading.Event()
    counts = [0] * options.at_once
    threads = [
        threading.Thread(
            target=_hold_up,
            args=(process.pid, options, at, counts, over),
        )
        for at in range(options.at_once)
    ]
    for thread in threads:
        thread.start()
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        return process.wait()
    finally:
        over.set()
        for thread in threads:
            thread.join()
        print(f"{sum(counts):,} stops", file=sys.stderr)


def _hold_up(
    root: int,
    options: argparse.Namespace,
    at: int,
    counts: list[int],
    over: threading.Event,
) -> None:
    """Stop one process after the other until the command is over."""
    draw = random.Random(options.seed * 1000 + at)
    while not over.is_set():
        with contextlib.suppress(psutil.Error):
            command = psutil.Process(root)
            one = draw.choice([command, *command.children(recursive=True)])
            if one.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                one.suspend()
                counts[at] += 1
                try:
                    long = draw.random() < 0.05
                    time.sleep(draw.uniform(0.01, options.longest if long else 0.08))
                finally:
                    one.resume()
        time.sleep(draw.uniform(0.01, 0.1))


if __name__ == "__main__":
    sys.exit(main())
