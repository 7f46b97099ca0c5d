"""What sparse and recursive blocks cost and save, measured beside the dense model.

For each architecture of one width: FLOPs of a token (the formula of every MFU here,
which tests hold against counted operations), training tokens/s and peak memory (bf16,
compiled, median of 10 steps), decode tokens/s (batch 8), and the wall-clock saving
beside the FLOP saving against dense. With `--docs FILE` it rewrites the table there.

    python benchmarks/architectures.py --out architectures.json
    python benchmarks/architectures.py --from F.json --docs docs/architectures.md
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

WIDTH, LAYERS, SEQUENCE, MICRO_BATCH, VOCABULARY = 1024, 16, 2048, 16, 50304
WARM_UP, TIMED = 4, 10


def specs() -> dict[str, Any]:
    """The architectures; all share width, depth, heads and vocabulary."""
    from lumina.model import spec as shapes

    dense = shapes.ModelSpec(
        vocab_size=VOCABULARY,
        padded_vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_layers=LAYERS,
        num_heads=16,
        num_kv_heads=16,
        head_dim=64,
        intermediate_size=2816,
        seq_length=SEQUENCE,
        tie_embeddings=True,
    )
    odd = tuple(range(1, LAYERS, 2))
    even = tuple(range(0, LAYERS, 2))
    # Two experts of half the width: the same active parameters as dense.
    experts = shapes.MoeSpec(8, 2, 1408, tuple(range(LAYERS)))
    found = {
        "dense": dense,
        "MoE 8 experts, top-2": replace(dense, moe=experts),
        "MoD 12.5%": replace(dense, mod=shapes.ModSpec(odd, 0.125, (0.125,))),
        "MoD 50%": replace(dense, mod=shapes.ModSpec(odd, 0.5, (0.5,))),
        "hybrid: MoE + MoD 50%": replace(
            dense,
            moe=replace(experts, layers=even),
            mod=shapes.ModSpec(odd, 0.5, (0.5,)),
        ),
    }
    # As deep as dense when every recursion is counted, with fewer weights.
    return found | {
        f"MoR {n} recursions": replace(
            dense,
            num_layers=2 + round((LAYERS - 2) / n),
            mor=shapes.MorSpec(recursions=n),
        )
        for n in (2, 3)
    }


def batches(count: int) -> list[Any]:
    import torch

    from lumina.data.stream import Cursor, StepBatches
    from lumina.model.interface import Batch

    made = []
    for seed in range(count):
        g = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, VOCABULARY, (MICRO_BATCH, SEQUENCE + 1), generator=g)
        batch = Batch.from_rows(ids[:, :-1].contiguous(), ids[:, 1:].contiguous())
        tokens = MICRO_BATCH * SEQUENCE
        made.append(StepBatches([batch.to("cuda")], tokens, tokens, Cursor(), 0.0, []))
    return made


def measure(name: str, spec: Any) -> dict[str, Any]:
    """One architecture: operations, speed, memory, decoding."""
    import torch

    from lumina.assemble.assemble import assemble
    from lumina.model.network import build_network
    from lumina.plan.count import count_parameters
    from lumina.plan.flops import flops_per_token
    from lumina.plan.plan import Plan
    from lumina.train.step import train_step

    torch._dynamo.reset()
    torch.cuda.reset_peak_memory_stats()
    plan = Plan(
        spec=spec,
        device="cuda",
        compute_dtype="bfloat16",
        micro_batch_size=MICRO_BATCH,
        global_batch_size=MICRO_BATCH,
        steps=1000,
        warmup_steps=10,
        compile=True,
        attention="varlen",
        loss_chunk_bytes=2**30,
    )
    data = batches(4)
    program = assemble(plan)
    program.model.train()
    for i in range(WARM_UP):
        train_step(program, data[i % 4], i)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(TIMED + 1)]
    marks[0].record()
    for i in range(TIMED):
        values = train_step(program, data[i % 4], WARM_UP + i)
        marks[i + 1].record()
    torch.cuda.synchronize()
    times = [marks[i].elapsed_time(marks[i + 1]) / 1e3 for i in range(TIMED)]
    counts = count_parameters(spec)
    result = {
        "name": name,
        "parameters": counts.total,
        "active_parameters": counts.active,
        "flops_per_token": flops_per_token(spec),
        "tokens_per_second": MICRO_BATCH * SEQUENCE / statistics.median(times),
        "step_seconds_all": times,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "loss": values[0].item(),
    }
    program.close()
    # Blocks compiled for training would be compiled again for every cache length.
    network = build_network(spec, device="cuda").to(torch.bfloat16)
    network.backbone.compute_dtype = torch.bfloat16
    result["decode_tokens_per_second"] = decode(network)
    return result


def decode(network: Any, rows: int = 8, new: int = 64) -> float:
    """Tokens a second over all rows, after a first answer as warm-up."""
    import torch

    from lumina.infer.generate import Decoding
    from lumina.infer.sampling import Sampling

    prompts = [list(range(1, 129)) for _ in range(rows)]
    for timed in (False, True):
        torch.cuda.synchronize()
        start = time.perf_counter()
        made = 0
        for step in Decoding(
            network, prompts, Sampling(0.0), max_new_tokens=new if timed else 8
        ):
            made += len(step)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    return made / seconds


def table(results: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    dense = next(r for r in results if r["name"] == "dense")
    lines = [
        "| Architecture | Parameters (active) | GFLOP a token | Training "
        "tokens/s | Decode tokens/s (batch 8) | Peak GiB | FLOPs saved | Time saved |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        flops = 1 - r["flops_per_token"] / dense["flops_per_token"]
        spent = 1 - dense["tokens_per_second"] / r["tokens_per_second"]
        lines.append(
            f"| {r['name']} | {r['parameters'] / 1e6:.0f} M "
            f"({r['active_parameters'] / 1e6:.0f} M) "
            f"| {r['flops_per_token'] / 1e9:.2f} "
            f"| {r['tokens_per_second']:,.0f} "
            f"| {shown(r.get('decode_tokens_per_second'))} | {r['peak_gib']:.1f} "
            f"| {flops:.0%} | {spent:.0%} |"
        )
    return "\n".join(lines)


def shown(rate: float | None) -> str:
    return "not measured" if rate is None else f"{rate:,.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("architectures.json"))
    parser.add_argument("--from", dest="source", type=Path)
    parser.add_argument("--docs", type=Path)
    parser.add_argument("--only", nargs="+", default=[])
    args = parser.parse_args()
    if args.source:
        facts = json.loads(args.source.read_text())
    else:
        facts = run(args.out, args.only)
    text = table([r for r in facts["results"] if "error" not in r])
    print(text)
    if args.docs:
        begin, end = "<!-- table -->", "<!-- /table -->"
        page = args.docs.read_text()
        head, rest = page.split(begin)
        _, tail = rest.split(end)
        made = f"{facts['gpu']}, torch {facts['torch']}, {facts['date']}"
        args.docs.write_text(f"{head}{begin}\n{made}\n\n{text}\n{end}{tail}")


def run(out: Path, only: list[str]) -> dict[str, Any]:
    import torch

    results = []
    facts = {
        "benchmark": "architectures",
        "date": time.strftime("%Y-%m-%d"),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "results": results,
    }
    for name, spec in specs().items():
        if only and not any(name.startswith(o) for o in only):
            continue
        try:
            results.append(measure(name, spec))
        except Exception as error:  # one that fails must not lose the others
            results.append({"name": name, "error": f"{type(error).__name__}: {error}"})
        print(json.dumps(results[-1])[:300], flush=True)
        out.write_text(json.dumps(facts, indent=1) + "\n")
    return facts


if __name__ == "__main__":
    main()
