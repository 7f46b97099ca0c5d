"""What each way to keep activations saves, and what it does to gradients and time.

    python benchmarks/kept_activations.py                     # tiny, on a CPU
    python benchmarks/kept_activations.py --device cuda --width 4096 --layers 32 \
        --length 65536 --heads 32 --intermediate 14336 --precision bf16

Every line is one forward and backward pass of the same freshly initialised model over
the same rows: bytes kept between the two passes, most bytes alive, what the plan
counted, seconds of a second pass, and the relative distance of the whole gradient from
that of a pass which keeps everything (or, where that does not fit, which recomputes
everything). Byte figures on a CPU count tensors; on CUDA the allocator is asked.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from lumina.assemble.features import build_features
from lumina.batch import Batch
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.measure.live_bytes import LiveBytes
from lumina.model.build import build_network
from lumina.plan.environment import probe
from lumina.plan.make import make_plan
from lumina.plan.plan import Plan
from lumina.quantities import byte_size

WAYS: tuple[dict[str, Any], ...] = (
    {"gradient_checkpointing": "none"},
    {"gradient_checkpointing": "none", "activation_bits": 8},
    {"gradient_checkpointing": "none", "activation_bits": 4},
    {"gradient_checkpointing": "selective"},
    {"gradient_checkpointing": "full"},
    {"gradient_checkpointing": "full", "activation_bits": 8},
    {"gradient_checkpointing": "full", "activation_bits": 4},
    {"gradient_checkpointing": "full", "activations_in": "host"},
    {"gradient_checkpointing": "full", "activations_in": "disk"},
    {"gradient_checkpointing": "sqrt"},
    {"gradient_checkpointing": "sqrt", "activations_in": "disk"},
)


def planned(arguments: argparse.Namespace, way: dict[str, Any]) -> Plan:
    """The Plan of one way."""
    config = Config(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.width,
        num_layers=arguments.layers,
        num_heads=arguments.heads,
        intermediate_size=arguments.intermediate,
        seq_length=arguments.length,
        batch_size=arguments.rows,
        global_batch_size=arguments.rows,
        precision=arguments.precision,
        device=arguments.device,
        loss_chunk_bytes=arguments.chunk,
        compile=False,
        steps=1,
        **way,
    )
    return make_plan(
        config, probe(config), tokenizer_vocab_size=None, rows_per_epoch=100
    )


def passes(plan: Plan) -> tuple[Tensor, int, int, float]:
    """(the gradient, bytes kept, most bytes, seconds of the second pass)."""
    device = torch.device(plan.device)
    network = build_network(plan.spec, loss_chunk_bytes=plan.loss_chunk_bytes, seed=0)
    network.backbone.compute_dtype = getattr(torch, plan.compute_dtype)
    build_features(network, plan)
    network.to(device)
    torch.manual_seed(0)
    shape = plan.micro_batch_size, plan.spec.seq_length
    ids = torch.randint(0, plan.spec.vocab_size, shape, device=device)
    batch = Batch.from_rows(ids, ids)
    kept = peak = 0
    took = 0.0
    for number in range(2):
        network.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        began = time.perf_counter()
        meter = LiveBytes()
        counts = device.type == "cpu" and number == 0
        if counts:
            for parameter in network.parameters():
                meter.add(parameter)
            meter.now = meter.peak = 0
            meter.__enter__()
        sums, _ = network(batch)
        if device.type == "cuda":
            kept = torch.cuda.memory_allocated() - before
        elif counts:
            kept = meter.now
        sums.loss_sum.backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
            peak = torch.cuda.max_memory_allocated() - before
        elif counts:
            peak = meter.peak
            meter.__exit__(None, None, None)
        took = time.perf_counter() - began
    found = [
        p.grad.float().flatten() for p in network.parameters() if p.grad is not None
    ]
    return torch.cat(found).cpu(), kept, peak, took


def main() -> None:
    """One line for each way that this machine has."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32")
    for name, value in (
        ("vocabulary", 256), ("width", 128), ("layers", 8), ("heads", 4),
        ("intermediate", 384), ("length", 64), ("rows", 4), ("chunk", 2**19),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--out", type=Path, help="write the figures as JSON, too")
    arguments = parser.parse_args()
    found: list[dict[str, Any]] = []
    reference: Tensor | None = None
    for way in WAYS:
        words = " ".join(f"{k}={v}" for k, v in way.items())
        try:
            plan = planned(arguments, way)
            gradient, kept, peak, took = passes(plan)
        except (LuminaError, torch.OutOfMemoryError) as error:
            print(f"{words}: {str(error).splitlines()[0]}")
            found.append({**way, "refused": str(error).splitlines()[0]})
            continue
        if reference is None:
            reference = gradient
        error = float((gradient - reference).norm() / reference.norm())
        counted = plan.memory["activations"] + plan.memory["routed"]
        print(
            f"{words}: kept {byte_size(kept)}, peak {byte_size(peak)}, activations "
            f"planned {byte_size(counted)}, elsewhere {plan.elsewhere}, {took:.3f} s, "
            f"gradient error {error:.2g}"
        )
        figures = {"kept": kept, "peak": peak, "planned": counted, "seconds": took}
        found.append({**way, **figures, "gradient_error": error})
    if arguments.out is not None:
        shape = {k: v for k, v in vars(arguments).items() if k != "out"}
        facts = {
            "benchmark": "kept_activations",
            "date": time.strftime("%Y-%m-%d"),
            "torch": torch.__version__,
            **shape,
            "ways": found,
        }
        arguments.out.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
