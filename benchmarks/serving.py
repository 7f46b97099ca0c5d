"""Tokens a second of requests that come at any time, through the server's batch.

    PYTHONPATH=src python benchmarks/serving.py --work A --rows 32 --requests 128

Weights are random, drawn on the GPU; prompts have 16 to `--prompt` tokens, answers 16
to `--new-tokens`. A JSON line: tokens of answers a second from the first round to the
last, the steps that were run and how, and the time of a request from its queueing to
its first token. Beside it `generate`'s batches of as many rows, one after the other.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from decoding import LENGTH, shape_of
from work_shapes import spec_of


class Silent:
    """A tokenizer that says nothing, so that the model alone is timed."""

    stop_ids: frozenset[int] = frozenset()

    def stream(self, prompt: list[int]) -> Any:
        """Of no text."""
        return SimpleNamespace(push=lambda token: "", flush=lambda cut_off: "")


def requests_of(asked: argparse.Namespace, vocabulary: int) -> list[Any]:
    """The requests, by a fixed seed."""
    from lumina.infer.sampling import Sampling
    from lumina.infer.serving.request import Request

    draw, found = random.Random(1), []
    tokenizer: Any = Silent()
    how = Sampling(temperature=asked.temperature, seed=1)
    for _ in range(asked.requests):
        length = draw.randint(16, asked.prompt)
        prompt = [draw.randrange(vocabulary) for _ in range(length)]
        new = draw.randint(16, asked.new_tokens)
        found.append(Request(prompt, how, new, (), tokenizer))
    return found


def served(network: Any, asked: argparse.Namespace) -> dict[str, Any]:
    """All requests through one batch, after a round that builds kernels."""
    from lumina.infer.decoding.program import measured_products
    from lumina.infer.decoding.settings import StepSettings
    from lumina.infer.kv.settings import CacheSettings
    from lumina.infer.serving.batch import Batch
    from lumina.infer.serving.seating import Limits

    tokens = asked.prompt + asked.new_tokens
    limits = Limits(asked.rows, tokens, asked.requests)
    stepping = StepSettings(batch_invariant=asked.batch_invariant)
    if not asked.batch_invariant:
        for power in range(asked.rows.bit_length()):
            measured_products(network, 1 << power)
    batch = Batch(network, limits, CacheSettings(), stepping)
    facts: dict[str, Any] = {}
    for turn in range(2):
        requests = requests_of(asked, network.spec.vocab_size)
        batch.waiting.extend(requests)
        first: dict[int, float] = {}
        began, rounds = time.perf_counter(), 0
        while batch.busy:
            batch.round()
            rounds += 1
            for request in requests if turn else ():
                if request.new_ids and id(request) not in first:
                    first[id(request)] = time.perf_counter() - began
        seconds = time.perf_counter() - began
        made = sum(len(request.new_ids) for request in requests)
        facts = {
            "rate": made / seconds,
            "tokens": made,
            "rounds": rounds,
            "seconds": seconds,
            "path": batch.step.path,
            "graphs": len(batch.step.recordings._graphs),
            "first_median": statistics.median(first.values()) if first else None,
        }
    return facts


def in_batches(network: Any, asked: argparse.Namespace) -> dict[str, Any]:
    """The same requests by `Decoding`, as many at a time, each batch to its end."""
    from lumina.infer.decoding.workspace import Workspace
    from lumina.infer.generate import Decoding

    workspace, facts = Workspace(), {}
    for _ in range(2):
        requests = requests_of(asked, network.spec.vocab_size)
        began, made = time.perf_counter(), 0
        for begin in range(0, len(requests), asked.rows):
            some = requests[begin : begin + asked.rows]
            decoding = Decoding(
                network,
                [one.prompt for one in some],
                some[0].sampling,
                max_new_tokens=max(one.max_new_tokens for one in some),
                workspace=workspace,
            )
            for step in decoding:
                for row, _ in step:
                    if len(decoding.new_ids[row]) >= some[row].max_new_tokens:
                        decoding.end(row, "length")
            made += sum(one.max_new_tokens for one in some)
        seconds = time.perf_counter() - began
        facts = {"rate": made / seconds, "seconds": seconds, "path": decoding.path}
    return facts


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", choices=("A", "B"), default="A")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--requests", type=int, default=128)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--batch-invariant", action="store_true")
    parser.add_argument("--out", help="add the lines to a file, too")
    asked = parser.parse_args()
    from lumina.infer.random_network import random_network

    device = "cuda" if torch.cuda.is_available() else "cpu"
    spec = spec_of(shape_of(asked.work), LENGTH)
    network = random_network(spec, device, "bf16")
    name = torch.cuda.get_device_name() if device == "cuda" else device
    for way, measure in (("side by side", served), ("in batches", in_batches)):
        line = json.dumps(
            {"work": asked.work, "way": way, "device": name, **vars(asked)}
            | measure(network, asked)
        )
        print(line, flush=True)
        if asked.out:
            with Path(asked.out).open("a") as file:
                file.write(line + "\n")


if __name__ == "__main__":
    main()
