"""What sparse and recursive blocks cost and save, measured beside the dense model.

For each architecture of one width, on one GPU in bf16, compiled: operations of a token
counted as they are executed, training tokens/s and peak memory (median of 20 steps),
where a step's time goes, decode tokens/s (batch 8), and the held-out loss after equal
training operations on books, over three seeds. It works in pieces, each saved: call it
again with the same `--out` and it goes on.

    python benchmarks/architectures --prepare classic-books.tar.xz --data FOLDER
    python benchmarks/architectures --data FOLDER --out F.json [--seconds 540]
    python benchmarks/architectures --out F.json --docs docs/architectures.md
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from books import prepare
from learning import RATE, ROWS, decoding, learn
from measuring import measure
from page import tables, write
from shapes import SEQUENCE, specs


def main() -> None:
    """Prepare, run or write, by the arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prepare", type=Path, help="the books, a tar archive")
    parser.add_argument("--data", type=Path, help="folder of the prepared rows")
    parser.add_argument("--out", type=Path, default=Path("architectures.json"))
    parser.add_argument("--docs", type=Path, help="page whose tables are rewritten")
    parser.add_argument("--only", nargs="+", default=[], help="names' beginnings")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dense-steps", type=int, default=600)
    parser.add_argument(
        "--seconds", type=float, default=1e9, help="begin no piece after"
    )
    args = parser.parse_args()
    if args.prepare:
        print(json.dumps(prepare(args.prepare, args.data), indent=1))
        return
    if args.data:
        run(args)
    facts = json.loads(args.out.read_text())
    print(tables(facts))
    if args.docs:
        write(facts, args.docs)


def run(args: argparse.Namespace) -> None:
    """The pieces that are not there yet, until the time is over."""
    import numpy as np

    began = time.monotonic()
    data = {n: np.load(args.data / f"{n}.npy") for n in ("train", "held_out")}
    facts = opened(args)
    for name, piece in pieces(args, facts):
        if time.monotonic() - began > args.seconds:
            print("stopped: out of time; call again to go on", flush=True)
            return
        result = facts["results"].setdefault(name, {"seeds": {}})
        spec = specs()[name]
        start = time.monotonic()
        if piece == "speed":
            result["speed"] = found = measure(spec, data["train"])
        else:
            flops = result["speed"]["flops_per_token"]
            steps = round(facts["budget_flops"] / (flops * ROWS * SEQUENCE))
            if piece == "decode":
                result["decode"] = found = decoding(spec, steps // 4, data)
            else:
                found = learn(spec, steps, int(piece), data)
                result["seeds"][piece] = found
        if name == "dense" and "budget_flops" not in facts:
            tokens = args.dense_steps * ROWS * SEQUENCE
            facts["budget_flops"] = found["flops_per_token"] * tokens
        args.out.write_text(json.dumps(facts, indent=1) + "\n")
        shown = {k: v for k, v in found.items() if isinstance(v, int | float)}
        took = time.monotonic() - start
        print(f"{name} {piece} ({took:.0f} s): {json.dumps(shown)}", flush=True)


def opened(args: argparse.Namespace) -> dict[str, Any]:
    """What is there already, or a beginning."""
    if args.out.exists():
        return json.loads(args.out.read_text())  # type: ignore[no-any-return]
    import torch

    return {
        "benchmark": "architectures",
        "date": time.strftime("%Y-%m-%d"),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "peak_learning_rate": RATE,
        "tokens_of_a_learning_step": ROWS * SEQUENCE,
        "data": json.loads((args.data / "facts.json").read_text()),
        "results": {},
    }


def pieces(
    args: argparse.Namespace, facts: dict[str, Any]
) -> Iterator[tuple[str, str]]:
    """(architecture, "speed" or a seed) not done yet; dense comes first."""
    chosen = [
        n for n in specs() if not args.only or any(n.startswith(o) for o in args.only)
    ]
    wanted = [(n, piece) for piece in ("speed", "decode") for n in chosen]
    wanted += [(n, str(seed)) for n in chosen for seed in range(args.seeds)]
    for name, piece in wanted:
        done = facts["results"].get(name, {"seeds": {}})
        if piece not in (done["seeds"] if piece.isdigit() else done):
            yield name, piece


if __name__ == "__main__":
    main()
