"""Work A (Llama-3.2-1B shape) and Work B (OLMoE shape): training speed on one GPU.

Work A: 16 layers of 2048, vocabulary 128,256, untied, 1.498 B parameters.
Work B: 8 layers of 2048, 64 experts of width 1,024, top-8, 3.56 B parameters.
Both: S=4096, micro-batch 4, random tokens; forward, cross entropy over all positions,
backward, clip 1.0, AdamW on float32 master weights; 4 warm-up and 10 timed steps, the
median. Each variant runs in a process of its own, in an order that alternates, so that
the comparison is of one machine and one hour.

    python benchmarks/work_ab.py --out results.json [--variants NAME ...] [--profile]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SEQUENCE, MICRO_BATCH, WARM_UP, TIMED = 4096, 4, 4, 10
SHAPES: dict[str, dict[str, Any]] = {
    "A": dict(
        vocab=128256, hidden=2048, layers=16, heads=32, kv=8, head_dim=64, ffn=8192
    ),
    "B": dict(
        vocab=50304, hidden=2048, layers=8, heads=16, kv=16, head_dim=128, ffn=1024,
        experts=64, top_k=8,
    ),
}  # fmt: skip
VARIANTS = [
    "A/transformers",
    "A/torchtitan+compile",
    "A/lumina",
    "A/lumina+compile",
    "B/transformers",
    "B/torchtitan+compile",
    "B/lumina",
    "B/lumina+compile",
    "B/torchtitan+compile+skewed",
    "B/lumina+compile+skewed",
]
PEAK = 989e12


def spec_of(shape: dict[str, Any], length: int) -> Any:
    """A shape of `SHAPES` as Lumina's, for rows of some length."""
    from lumina.model.spec import ModelSpec, MoeSpec

    moe = None
    if "experts" in shape:
        moe = MoeSpec(
            num_experts=shape["experts"],
            top_k=shape["top_k"],
            intermediate_size=shape["ffn"],
            layers=tuple(range(shape["layers"])),
        )
    return ModelSpec(
        vocab_size=shape["vocab"],
        padded_vocab_size=-(-shape["vocab"] // 64) * 64,
        hidden_size=shape["hidden"],
        num_layers=shape["layers"],
        num_heads=shape["heads"],
        num_kv_heads=shape["kv"],
        head_dim=shape["head_dim"],
        intermediate_size=shape["ffn"],
        seq_length=length,
        rope_theta=500000.0,
        moe=moe,
    )


def lumina_step(shape: dict[str, Any], options: set[str]) -> tuple[Any, dict[str, Any]]:
    """A closure that trains one step with Lumina's own step, and its facts."""
    import torch

    from lumina.assemble.assemble import assemble
    from lumina.assemble.ranks import Ranks
    from lumina.data.stream import StepBatches
    from lumina.plan.count import count_parameters
    from lumina.plan.flops import flops_per_token
    from lumina.plan.plan import Plan
    from lumina.train.looks.step_times import StepTimes
    from lumina.train.step import train_step
    from lumina.train.watch import Watch

    spec = spec_of(shape, SEQUENCE)
    accumulate = accumulated(options)
    ranks = Ranks.from_environment()
    ranks.connect("cuda")
    world = ranks.world_size
    plan = Plan(
        spec=spec,
        device="cuda",
        compute_dtype="bfloat16",
        micro_batch_size=MICRO_BATCH,
        grad_accum=accumulate,
        global_batch_size=MICRO_BATCH * accumulate * world,
        world_size=world,
        parallel=next((w for w in ("ddp", "zero2", "fsdp2") if w in options), "none"),
        steps=1000,
        warmup_steps=10,
        compile="compile" in options,
        attention="varlen",
        loss_chunk_bytes=(256 if "chunk256" in options else 1024) * 2**20,
        gradient_checkpointing=next(
            (m for m in ("full", "selective") if m in options), "none"
        ),
    )
    program = assemble(plan, ranks=ranks)
    program.model.train()
    if "skewed" in options:
        for block in program.network.backbone.blocks:
            skew_(block.feedforward.router.weight.data)
    batches = [
        StepBatches(
            micro_batches=[random_batch(shape["vocab"], i * accumulate + j)
                           for j in range(accumulate)],
            loss_tokens=MICRO_BATCH * SEQUENCE * accumulate * world,
            tokens=MICRO_BATCH * SEQUENCE * accumulate * world,
            cursor={},
            epoch=0.0,
            row_ids=[],
        )
        for i in range(4)
    ]  # fmt: skip
    counts = count_parameters(spec)
    facts = {
        "parameters": counts.total,
        "active_parameters": counts.active,
        "flops_per_token": flops_per_token(spec),
        "tokens_per_step": MICRO_BATCH * SEQUENCE * accumulate * world,
        "world_size": world,
    }
    last: dict[str, Any] = {}

    def step(i: int) -> Any:
        last["values"] = train_step(program, batches[i % 4], i)
        return last["values"][0]

    def violation() -> list[float]:
        """Per layer, the largest expert's load over the mean, less one."""
        from lumina.model.kinds.table import count_shapes, loss_terms
        from lumina.train.counts import divide_counts
        from lumina.train.step import SCALARS

        values = last["values"][len(SCALARS) + len(loss_terms(spec)) :]
        counts = dict(divide_counts(values, count_shapes(spec)))["moe.counts"]
        return (counts.amax(1) / counts.mean(1) - 1).tolist()

    def optimizer_seconds(first: int) -> float:
        """The optimizer's part of a step: the median of three."""
        times = []
        for i in range(first, first + 3):
            look = StepTimes(program, batches[i % 4])
            train_step(program, batches[i % 4], i, watch=Watch([look]))
            torch.cuda.synchronize()
            times.append(look.row([])["optimizer_time"])
        return statistics.median(times)

    facts["optimizer_seconds"] = optimizer_seconds
    if spec.moe is not None:
        facts["violation"] = violation
    return step, facts


def accumulated(options: set[str]) -> int:
    """Micro-batches of a step: of the option accum8 eight."""
    return next((int(o[5:]) for o in options if o.startswith("accum")), 1)


def random_batch(vocab: int, seed: int) -> Any:
    """Rows of one document each, on the GPU."""
    import torch

    from lumina.batch import Batch

    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocab, (MICRO_BATCH, SEQUENCE + 1), generator=generator)
    return Batch.from_rows(ids[:, :-1].contiguous(), ids[:, 1:].contiguous()).to("cuda")


def in_transformers(shape: dict[str, Any], length: int) -> dict[str, Any]:
    """A shape in the words of transformers' configurations, for rows of `length`."""
    return dict(
        vocab_size=shape["vocab"],
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv"],
        head_dim=shape["head_dim"],
        intermediate_size=shape["ffn"],
        max_position_embeddings=length,
        tie_word_embeddings=False,
        attn_implementation="sdpa",
    )


def transformers_step(
    shape: dict[str, Any], options: set[str]
) -> tuple[Any, dict[str, Any]]:
    """The same work with transformers' model and a plain loop, eager SDPA."""
    import torch
    from transformers import (
        AutoModelForCausalLM,
        LlamaConfig,
        OlmoeConfig,
    )

    common = in_transformers(shape, SEQUENCE)
    if "experts" in shape:
        config: Any = OlmoeConfig(
            **common,
            num_experts=shape["experts"],
            num_experts_per_tok=shape["top_k"],
        )
        config._experts_implementation = "grouped_mm"
    else:
        config = LlamaConfig(**common)
    with torch.device("cuda"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train()
    data = []
    for seed in range(4):
        g = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, shape["vocab"], (MICRO_BATCH, SEQUENCE), generator=g)
        data.append(ids.cuda())

    def step(i: int) -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            loss = model(input_ids=data[i % 4], labels=data[i % 4]).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    total = sum(p.numel() for p in model.parameters())
    return step, {
        "parameters": total,
        "tokens_per_step": MICRO_BATCH * SEQUENCE,
    }


def torchtitan_step(
    shape: dict[str, Any], options: set[str]
) -> tuple[Any, dict[str, Any]]:
    """The same work with torchtitan 0.2.2's models, compiled as it compiles them."""
    import torch
    from torchtitan.components.loss import cross_entropy_loss
    from torchtitan.config.job_config import Compile

    if "experts" in shape:
        from torchtitan.models.llama4.infra.parallelize import apply_compile
        from torchtitan.models.moe import MoEArgs
        from torchtitan.models.qwen3.model.args import Qwen3ModelArgs
        from torchtitan.models.qwen3.model.model import Qwen3Model

        routed = MoEArgs(
            num_experts=shape["experts"],
            num_shared_experts=0,
            top_k=shape["top_k"],
            score_func="softmax",
            route_norm=True,
            score_before_experts=False,
            load_balance_coeff=None,
        )
        arguments: Any = Qwen3ModelArgs(
            dim=shape["hidden"],
            n_layers=shape["layers"],
            n_heads=shape["heads"],
            n_kv_heads=shape["kv"],
            vocab_size=shape["vocab"],
            head_dim=shape["head_dim"],
            qk_norm=False,
            max_seq_len=SEQUENCE,
            moe_enabled=True,
            moe_inter_dim=shape["ffn"],
            moe_args=routed,
        )
        with torch.device("cuda"):
            model: Any = Qwen3Model(arguments)
    else:
        from torchtitan.models.llama3.infra.parallelize import apply_compile
        from torchtitan.models.llama3.model.args import TransformerModelArgs
        from torchtitan.models.llama3.model.model import Transformer

        arguments = TransformerModelArgs(
            dim=shape["hidden"],
            n_layers=shape["layers"],
            n_heads=shape["heads"],
            n_kv_heads=shape["kv"],
            vocab_size=shape["vocab"],
            ffn_dim_multiplier=1.5,
            multiple_of=256,
            rope_theta=500000,
            max_seq_len=SEQUENCE,
        )
        with torch.device("cuda"):
            model = Transformer(arguments)
    with torch.no_grad():
        model.init_weights(buffer_device=torch.device("cuda"))
    if "skewed" in options:
        for layer in model.layers.values():
            skew_(layer.moe.router.gate.weight.data)
    loss_of = cross_entropy_loss
    if "compile" in options:
        compiling = Compile(enable=True)
        if "experts" in shape:
            apply_compile(model, compiling, False)
        else:
            apply_compile(model, compiling)
        loss_of = torch.compile(cross_entropy_loss)
    world, mixed = 1, torch.autocast("cuda", torch.bfloat16)
    if "fsdp2" in options:  # FSDP2 itself hands the blocks weights in bfloat16
        world = torchtitan_sharded(model, "experts" in shape)
        mixed = torch.autocast("cuda", enabled=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train()
    accumulate = accumulated(options)
    data = [random_batch(shape["vocab"], i) for i in range(4 * accumulate)]
    tokens = MICRO_BATCH * SEQUENCE * accumulate * world

    def step(i: int) -> Any:
        total = None
        for j in range(accumulate):
            batch = data[(i * accumulate + j) % len(data)]
            with mixed:
                loss = loss_of(model(batch.input_ids), batch.labels) / tokens
            loss.backward()
            total = loss.detach() if total is None else total + loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    parameters = sum(p.numel() for p in model.parameters())
    return step, {"parameters": parameters, "tokens_per_step": tokens}


def torchtitan_sharded(model: Any, routed: bool) -> int:
    """Shard torchtitan's compiled model in place as it does; the number of ranks."""
    import torch
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    if routed:
        from torchtitan.models.llama4.infra.parallelize import apply_fsdp
    else:
        from torchtitan.models.llama3.infra.parallelize import apply_fsdp

    if not dist.is_initialized():
        device = torch.device("cuda", torch.cuda.current_device())
        dist.init_process_group("cpu:gloo,cuda:nccl", device_id=device)
    world = dist.get_world_size()
    mesh = init_device_mesh("cuda", (world,))
    apply_fsdp(
        model,
        mesh,
        param_dtype=torch.bfloat16,
        reduce_dtype=torch.float32,
        pp_enabled=False,
    )
    return world


def skew_(router_ed: Any) -> None:
    """Make some experts far more popular: rows scaled from a quarter to four times."""
    import torch

    experts = router_ed.shape[0]
    scale = torch.logspace(-2, 2, experts, base=2.0, device=router_ed.device)
    router_ed.mul_(scale[:, None].to(router_ed.dtype))


def measure(variant: str, profile: bool) -> dict[str, Any]:
    """Run one variant in this process."""
    import torch

    work, name = variant.split("/")
    options = set(name.split("+")[1:])
    makers = {"transformers": transformers_step, "torchtitan": torchtitan_step}
    make = makers.get(name.split("+")[0], lumina_step)
    started = time.perf_counter()
    step, facts = make(SHAPES[work], options)
    torch.cuda.synchronize()
    built = time.perf_counter() - started
    losses = [step(i) for i in range(WARM_UP)]
    torch.cuda.synchronize()
    warm = time.perf_counter() - started - built
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(TIMED + 1)]
    marks[0].record()
    for i in range(TIMED):
        losses.append(step(WARM_UP + i))
        marks[i + 1].record()
    torch.cuda.synchronize()
    times = [a.elapsed_time(b) / 1e3 for a, b in itertools.pairwise(marks)]
    median = statistics.median(times)
    if options & {"skewed", "balanced"} and make is lumina_step:
        facts["max_violation"] = facts.pop("violation")()
    facts.pop("violation", None)
    facts.pop("optimizer_seconds", None)
    result = facts | {
        "variant": variant,
        "tokens_per_second": facts["tokens_per_step"] / median,
        "step_seconds": median,
        "step_seconds_all": times,
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "first_loss": losses[0].item(),
        "last_loss": losses[-1].item(),
        "build_seconds": built,
        "warm_up_seconds": warm,
    }
    if profile:
        result["profile"] = profile_table(step)
    return result


def profile_table(step: Any) -> list[dict[str, Any]]:
    """GPU time by kernel over two steps, the 25 largest."""
    import torch
    from torch.profiler import ProfilerActivity

    with torch.profiler.profile(
        activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]
    ) as profiler:
        for i in range(2):
            step(100 + i)
        torch.cuda.synchronize()
    rows = [
        {
            "kernel": event.key[:90],
            "ms_per_step": event.self_device_time_total / 2e3,
            "calls_per_step": event.count / 2,
        }
        for event in profiler.key_averages()
        if event.device_type == torch.autograd.DeviceType.CUDA
    ]
    rows.sort(key=lambda row: -row["ms_per_step"])
    return rows[:25]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("work_ab.json"))
    parser.add_argument("--variants", nargs="+", default=VARIANTS)
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--one", help="run this variant here and print JSON")
    args = parser.parse_args()
    import torch

    if args.one:
        result = measure(args.one, args.profile)
        if os.environ.get("RANK", "0") == "0":
            print("RESULT " + json.dumps(result))
        return
    results = []
    for variant in args.variants:
        command = [sys.executable, __file__, "--one", variant]
        gpus = (
            torch.cuda.device_count() if "ddp" in variant or "fsdp2" in variant else 1
        )
        if gpus > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone"]
            command[1:1] = [*launcher, f"--nproc-per-node={gpus}"]
        command += ["--profile"] if args.profile else []
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ, check=False
        )
        lines = [x for x in done.stdout.splitlines() if x.startswith("RESULT ")]
        if lines:
            results.append(json.loads(lines[-1][7:]))
        else:
            tail = (done.stdout + done.stderr).strip().splitlines()[-25:]
            results.append({"variant": variant, "error": "\n".join(tail)})
        save(args.out, results)
    for row in results:
        print(line(row))
        for kernel in row.get("profile", [])[:22]:
            print(
                "    {ms_per_step:8.2f} ms {calls_per_step:7.1f}x {kernel}".format(
                    **kernel
                )
            )


def save(path: Path, results: list[dict[str, Any]]) -> None:
    import torch

    facts = {
        "benchmark": "work_ab",
        "date": time.strftime("%Y-%m-%d"),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "sequence": SEQUENCE,
        "micro_batch": MICRO_BATCH,
        "results": results,
    }
    path.write_text(json.dumps(facts, indent=1) + "\n")


def line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['variant']:<24} failed\n{row['error']}"
    rate = row["tokens_per_second"]
    flops = row.get("flops_per_token")
    peak = PEAK * row.get("world_size", 1)
    mfu = f"{rate * flops / peak:6.1%}" if flops else "     -"
    return (
        f"{row['variant']:<24} {rate:9,.0f} tok/s  MFU {mfu}  "
        f"{row['peak_gib']:6.1f} GiB  loss {row['first_loss']:.4f} -> "
        f"{row['last_loss']:.4f}  warm-up {row['warm_up_seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()
