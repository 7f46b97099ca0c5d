"""Decoding of Work A (dense, 1.5 B) and Work B (64 experts), by every way of a step.

    PYTHONPATH=src python benchmarks/decoding.py --work A --rows 1 32 --against
    PYTHONPATH=src python benchmarks/decoding.py --work B --rows 1 4 32
    PYTHONPATH=src python benchmarks/decoding.py --tiles
    PYTHONPATH=src python benchmarks/decoding.py --work A --products --rows 1 4 8 16 32

Weights are random, drawn on the GPU. A JSON line for each measurement: tokens a second
of all rows after the first token, the median of the rounds, and its share of the floor
(the weights a token reads, once, at the rate of a large copy). "dense of B" is a dense
model of Work B's total size. `--tiles` times the products of both works alone, by how
they are divided; `--products` by each way that a step can choose; `--profile` lists
the kernels of recorded steps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))
from work_shapes import SHAPES, in_transformers, spec_of

WAYS = {
    "eager": ("off", "plain"),
    "recorded": ("on", "plain"),
    "fused, eager": ("off", "fused"),
    "fused": ("on", "fused"),
}
DENSE_OF_B = {**SHAPES["A"], "vocab": 50304, "layers": 55}
LENGTH = 4096


def shape_of(work: str) -> dict[str, Any]:
    """The shape of a work, or of the dense model beside Work B."""
    return DENSE_OF_B if work == "dense" else SHAPES[work]


def read_by_a_token(network: Any, rows: int) -> float:
    """Bytes of weights that a step of so many rows reads, experts as they fall."""
    total = 0.0
    for name, one in network.named_parameters():
        size = one.numel() * one.element_size()
        if name.startswith("backbone.embedding"):
            continue
        if one.ndim == 3:  # each expert is missed by a row with 1 - k / E
            missed = (1 - network.spec.moe.top_k / len(one)) ** rows
            size *= 1 - missed
        total += size
    return total


def measured(
    network: Any, way: str, rows: int, asked: argparse.Namespace
) -> dict[str, Any]:
    """Tokens a second of one way."""
    from lumina.infer.bench import measure_generation
    from lumina.infer.decoding.settings import StepSettings

    stepping = StepSettings(*WAYS[way])
    [speed] = measure_generation(
        network,
        [rows],
        [asked.prompt],
        new_tokens=asked.new_tokens,
        rounds=asked.rounds,
        stepping=stepping,
    )
    return {
        "rate": speed.tokens_per_second,
        "rates": speed.rate,
        "first": speed.first,
        "memory": speed.memory_bytes,
        "path": speed.problem or speed.path,
    }


def transformers_rate(
    shape: dict[str, Any], rows: int, asked: argparse.Namespace, compiled: bool
) -> dict[str, Any]:
    """Tokens a second of transformers' generate, dynamic or static and compiled."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(**in_transformers(shape, LENGTH))
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).eval()
    ids = torch.randint(0, shape["vocab"], (rows, asked.prompt), device="cuda")
    rates = []
    for turn in range(asked.rounds + 2):
        seconds = []
        for new in (1, asked.new_tokens):
            torch.cuda.synchronize()
            began = time.perf_counter()
            options = {"cache_implementation": "static"} if compiled else {}
            model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                min_new_tokens=new,
                max_new_tokens=new,
                do_sample=False,
                pad_token_id=0,
                **options,
            )
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        if turn >= 2:
            rates.append(rows * (asked.new_tokens - 1) / (seconds[1] - seconds[0]))
    del model
    torch.cuda.empty_cache()
    return {"rate": statistics.median(rates), "rates": rates}


def profiled(
    network: Any, rows: int, asked: argparse.Namespace
) -> list[dict[str, Any]]:
    """The kernels of eight recorded steps, by the time they take together."""
    from torch.profiler import ProfilerActivity, profile

    from lumina.infer.decoding.settings import StepSettings
    from lumina.infer.generate import Decoding
    from lumina.infer.sampling import Sampling

    prompts = torch.randint(0, network.spec.vocab_size, (rows, asked.prompt)).tolist()
    greedy = Sampling(temperature=0)
    decoding = Decoding(
        network, prompts, greedy, max_new_tokens=40, stepping=StepSettings("on")
    )
    for _ in range(20):
        decoding.step()
    torch.cuda.synchronize()
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(8):
            decoding.step()
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    events = sorted(found.key_averages(), key=lambda e: -e.self_device_time_total)
    rows_found = [
        {
            "kernel": e.key[:60],
            "microseconds": e.self_device_time_total / 8,
            "calls": e.count / 8,
        }
        for e in events[:14]
    ]
    busy = sum(e.self_device_time_total for e in events) / 8
    return [{"busy_microseconds": busy, "wall": seconds / 8 * 1e6}, *rows_found]


def product_of(kind: str, inputs: int, outputs: int, rows: int) -> Any:
    """A product of random rows, as a function of the weights."""
    from lumina.ops.one_token import products

    x = torch.randn(rows, inputs, device="cuda").bfloat16()
    scale = torch.ones(inputs, device="cuda").bfloat16()
    residual = torch.randn(rows, outputs, device="cuda").bfloat16()
    tile_rows = rows_of(rows)

    def run(weight: torch.Tensor) -> torch.Tensor:
        if kind == "cublas":
            return torch.nn.functional.linear(x, weight)
        if kind == "add":
            return products.linear_add(x, weight, residual, rows=tile_rows)
        if kind == "gate":
            return products.norm_swiglu(x, scale, 1e-5, weight, rows=tile_rows)
        return products.norm_linear(x, scale, 1e-5, weight, rows=tile_rows)

    return run


def floor_of(product: Any) -> float:
    """Microseconds in which a product's matrix could be read."""
    return product.inputs * product.outputs * 2 / 4.295e6  # type: ignore[no-any-return]


def timed(run: Any, weights: torch.Tensor) -> float:
    """Microseconds of a product, over so many weights that none is in the cache."""
    for weight in weights:
        run(weight)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for weight in weights:
            run(weight)
    graph.replay()
    times = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e3 / len(weights))
    return statistics.median(times)


def rows_of(rows: int) -> int:
    """Rows of a tile, as a program for so many rows has them."""
    return 1 if rows == 1 else 16 if rows <= 16 else 32


def divisions(gated: bool, rows: int) -> list[tuple[int, int, int, int]]:
    """Ways to divide a product whose tiles fit on the chip."""
    both = 2 if gated else 1
    if rows == 1:
        return [
            (out, into, warps, stages)
            for out in (2, 4, 8, 16)
            for into in (512, 1024, 2048)
            for warps in (4, 8)
            for stages in (1, 3)
            if 32 <= both * out * into // (warps * 32) <= 96
        ]
    fit = []
    for out in (16, 32, 64):
        for into in (128, 256):
            for warps in (4, 8):
                for stages in (3, 5):
                    size = (both * out + rows_of(rows)) * into * 2
                    if size * stages <= 200_000 and 2048 <= out * into <= 8192:
                        fit.append((out, into, warps, stages))
    return fit


def tiles(rows: int) -> None:
    """Every product of Work A by how it is divided, beside cuBLAS and the floor.

    The best one is used from then on in this process.
    """
    from lumina.ops.one_token import products

    cases = {
        "qkv": ("norm", 2048, 3072),
        "out": ("add", 2048, 2048),
        "gate": ("gate", 2048, 8192),
        "down": ("add", 8192, 2048),
        "head": ("norm", 2048, 128256),
    }
    for case, (kind, inputs, outputs) in cases.items():
        wide = 2 * outputs if kind == "gate" else outputs
        copies = max(2, 2**28 // (wide * inputs * 2))
        weights = torch.randn(copies, wide, inputs, device="cuda").bfloat16()
        run = product_of(kind, inputs, outputs, rows)
        key = kind == "gate", inputs, outputs, rows_of(rows)
        before = products.tile_of(*key)
        facts: dict[str, Any] = {
            "product": case,
            "rows": rows,
            "floor": wide * inputs * 2 / 4.295e6,
            "cublas": timed(product_of("cublas", inputs, outputs, rows), weights),
            "now": timed(run, weights),
            "tile_now": before,
        }
        found = []
        for tile in divisions(kind == "gate", rows):
            products.MEASURED[key] = products.Tile(*tile)
            try:
                found.append((timed(run, weights), tile))
            except Exception as error:  # such a tile does not fit
                print(case, tile, str(error)[:90], file=sys.stderr)
        best = min(found, default=(0.0, before))[1]
        products.MEASURED[key] = products.Tile(*best)
        facts["key"] = key
        facts["best"] = sorted(found)[:5]
        facts["worst"] = max(found, default=None)
        print(json.dumps(facts), flush=True)
        del weights
        torch.cuda.empty_cache()


def main() -> None:
    """Measure what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", choices=("A", "B", "dense"), default="A")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--ways", nargs="+", default=["eager", "recorded", "fused"])
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", action="store_true", help="transformers, too")
    parser.add_argument("--products", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--tiles", action="store_true")
    parser.add_argument(
        "--apply", action="store_true", help="with --tiles: measure with the best ones"
    )
    parser.add_argument("--out", help="add the lines to a file, too")
    asked = parser.parse_args()
    if asked.tiles:
        for rows in asked.rows:
            tiles(rows)
        if not asked.apply:
            return
    from lumina.infer.decoding.program import measured_products
    from lumina.infer.random_network import random_network
    from lumina.measure.bench.ceilings import bandwidth_of

    bandwidth = bandwidth_of("cuda")
    shape = shape_of(asked.work)
    spec = replace(spec_of(shape, LENGTH))
    network = random_network(spec, "cuda", "bf16")

    def tell(facts: dict[str, Any]) -> None:
        line = json.dumps({"work": asked.work, **facts})
        print(line, flush=True)
        if asked.out:
            with Path(asked.out).open("a") as file:
                file.write(line + "\n")

    parameters = sum(p.numel() for p in network.parameters())
    tell(
        {
            "bandwidth": bandwidth,
            "parameters": parameters,
            "device": torch.cuda.get_device_name(),
        }
    )
    for rows in asked.rows if asked.products else ():
        found_ways: dict[Any, dict[str, float]] = {}
        for (product, way), time_of in measured_products(network, rows).items():
            found_ways.setdefault(product, {})[way] = time_of
        for product, times in found_ways.items():
            tell({**product._asdict(), "floor": floor_of(product), "times": times})
    for rows in () if asked.products else asked.rows:
        floor = rows * bandwidth / read_by_a_token(network, rows)
        for way in asked.ways:
            found = measured(network, way, rows, asked)
            share = found["rate"] and found["rate"] / floor
            tell({"rows": rows, "way": way, "floor": floor, "share": share, **found})
        if asked.profile:
            for one in profiled(network, rows, asked):
                tell({"rows": rows, **one})
    if asked.against:
        del network
        torch.cuda.empty_cache()
        for rows in asked.rows:
            for compiled in (False, True):
                way = (
                    "transformers static compiled"
                    if compiled
                    else "transformers dynamic"
                )
                tell(
                    {
                        "rows": rows,
                        "way": way,
                        **transformers_rate(shape, rows, asked, compiled),
                    }
                )


if __name__ == "__main__":
    main()
