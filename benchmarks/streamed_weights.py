"""What it costs to keep the weights of blocks beside the device, and what it saves.

    python benchmarks/streamed_weights.py --work qlora --layers 8 --out streamed.jsonl
    python benchmarks/streamed_weights.py --work all --places host --early --length 4096
    python benchmarks/streamed_weights.py --tiny        # a CPU, whether it works

The model has the shape of Llama 3 8B (32 blocks, width 4,096, vocabulary 128,256), or
fewer blocks of it with `--layers`, and random weights that are made on the device, one
tensor at a time. `qlora` trains LoRA of rank 32 beside matrices in NF4, `lora` beside
bfloat16, `all` trains all weights with states (and masters) in host memory; `--early`
updates in the backward pass, and `--rows` forwards of one row add up. With `--beside`
the embedding and the inputs of blocks wait on the host, too, and tokens go through
feed-forwards 8,192 at a time. Each case, for every place of the weights and every
`--ahead`, is a process of its own. A line of JSON holds what was planned and allocated,
the most host memory of the process, the seconds
of each step and the losses, which have to be the same for all places.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

GIB = 2**30
LLAMA = {
    "vocab_size": 128_256, "hidden_size": 4096, "num_layers": 32, "num_heads": 32,
    "num_kv_heads": 8, "intermediate_size": 14_336, "rope_theta": 500_000.0,
}  # fmt: skip
TINY = {
    "vocab_size": 512, "hidden_size": 64, "num_layers": 4, "num_heads": 4,
    "num_kv_heads": 2, "intermediate_size": 192, "rope_theta": 10_000.0,
}  # fmt: skip
ADAPTERS = {
    "init_from": "none", "use_peft": True, "peft_method": "lora", "lora_r": 32,
    "lora_alpha": 32, "lora_dropout": 0.0, "lora_target_modules": ("full",),
}  # fmt: skip


def plan_of(case: dict[str, Any]) -> Any:
    """The Plan of a case."""
    from lumina.config import Config
    from lumina.plan.environment import capped, probe
    from lumina.plan.make import make_plan

    gpu, work = not case["tiny"], case["work"]
    shape = dict(LLAMA if gpu else TINY)
    shape["num_layers"] = case["layers"] or shape["num_layers"]
    options: dict[str, Any] = {
        "tie_embeddings": False,
        "seq_length": case["length"],
        "batch_size": 1,
        "global_batch_size": case["rows"],
        "precision": "mixed_bf16" if gpu else "fp32",
        "device": "cuda" if gpu else "cpu",
        "gradient_checkpointing": case["kind"],
        "optimizer": case["optimizer"],
        "compile": case["compile"] and gpu,
        "weights_in": case["place"],
        "weights_ahead": case["ahead"],
        "steps": 100,
        "warmup_steps": 0,
        "max_grad_norm": 0.0 if case["early"] else 1.0,
    }
    if case["cap"]:
        options["cap_memory"] = f"{case['cap']} GiB"
    if work == "all":
        options |= {"optimizer_states_in": "host" if gpu else "disk"}
        options |= {"optimizer_in_backward": case["early"]}
    else:
        options |= ADAPTERS | {"load_in_4bit": work == "qlora"}
    if case["beside"]:
        options |= {"embedding_in": "host", "activations_in": "host"}
        options |= {"feedforward_tile": 8192, "loss_chunk_bytes": 2**27}
        options |= {"attention_head_groups": case["groups"]}
    if case["deterministic"]:
        options |= {"deterministic": True}
    config = Config(**shape | options)
    machine = capped(probe(config), config)
    return make_plan(config, machine, tokenizer_vocab_size=None, rows_per_epoch=None)


def measured(case: dict[str, Any]) -> dict[str, Any]:
    """Steps of a case."""
    import torch

    from lumina.assemble.assemble import assemble
    from lumina.assemble.source import StateSource
    from lumina.batch import Batch
    from lumina.data.stream import StepBatches
    from lumina.model.adapters.start import FirstValues
    from lumina.model.declared import declared
    from lumina.model.kinds.adapters import placed
    from lumina.state.adapter_base import Started
    from lumina.state.state import State
    from lumina.train.step import train_step

    began = time.perf_counter()
    plan = plan_of(case)
    known: dict[str, Any] = {
        "bound": plan.memory["bound"], "expected": plan.memory["expected"],
        "memory": plan.memory, "elsewhere": plan.elsewhere,
    }  # fmt: skip
    if case["plan_only"]:
        return known
    device, cuda = torch.device(plan.device), plan.device == "cuda"
    tensors = declared(plan.spec)
    shapes: dict[str, Any] = {}
    for one in tensors.values():
        shapes |= {name: shape for name, (shape, _) in one.logical().items()}
    generator = torch.Generator(device)

    def drawn(logical: str) -> torch.Tensor:
        # The seed is the tensor's own: the order in which they are read is nothing.
        generator.manual_seed(sum(map(ord, logical)))
        value = torch.ones(shapes[logical], device=device, dtype=torch.bfloat16)
        if value.ndim > 1:
            value.normal_(0.0, 0.02, generator=generator)
        return value

    first = FirstValues(tensors, placed(plan.spec, tensors), plan.seed, drawn)

    class Drawn(StateSource):
        def names(self) -> list[str]:
            own = {n for one in tensors.values() if one.saved for n in one.logical()}
            return sorted(own - first.names)

        def tensor(self, name: str) -> torch.Tensor:
            return drawn(name)

    drawn_source = Drawn(State())
    adapters = bool(plan.spec.adapters)
    source = Started(drawn_source, first, first.names) if adapters else drawn_source
    program = assemble(plan, source)
    known["assembled_s"] = round(time.perf_counter() - began, 2)
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        known["held"] = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        if case["cap"]:
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(case["cap"] * GIB / total)
    torch.manual_seed(1)
    length, seconds, losses = case["length"], [], []
    for number in range(case["steps"]):
        rows = torch.randint(0, 255, (case["rows"], 1, length))
        micro = [Batch.from_rows(ids, ids.roll(-1, 1)) for ids in rows]
        tokens = length * case["rows"]
        batches = StepBatches(micro, tokens, tokens, {}, None, [])
        started = time.perf_counter()
        losses.append(float(train_step(program, batches, number)[0].item()))
        seconds.append(round(time.perf_counter() - started, 4))
    known |= {"seconds": seconds, "losses": losses}
    if cuda:
        torch.cuda.synchronize()
        known["allocated"] = torch.cuda.max_memory_allocated()
        known["reserved"] = torch.cuda.max_memory_reserved()
    known["host_peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    program.close()
    return known


def main() -> int:
    """Run every case, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--work", default="qlora", choices=("qlora", "lora", "all"))
    parser.add_argument("--places", nargs="+", default=["device", "host"])
    parser.add_argument("--ahead", type=int, nargs="+", default=[1])
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--length", type=int, default=8192)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--kind", default="full")
    parser.add_argument("--optimizer", default="adamw")
    parser.add_argument("--cap", type=float, default=0.0)
    parser.add_argument("--early", action="store_true")
    parser.add_argument("--beside", action="store_true")
    parser.add_argument("--groups", type=int, default=1, help="of heads, with --beside")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--plan-only", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.case:
        print(json.dumps(measured(json.loads(asked.case))))
        return 0
    if asked.tiny:
        asked.length = min(asked.length, 64)
        asked.places = [{"host": "disk"}.get(one, one) for one in asked.places]
    names = (
        "work", "layers", "length", "rows", "steps", "kind", "optimizer", "cap",
        "early", "beside", "groups", "deterministic", "compile", "plan_only", "tiny",
    )  # fmt: skip
    shared = {name: getattr(asked, name) for name in names}
    failed, losses = 0, []
    for place in asked.places:
        for ahead in asked.ahead if place != "device" else [1]:
            case = shared | {"place": place, "ahead": ahead}
            command = [sys.executable, __file__, "--case", json.dumps(case)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            found: dict[str, Any] = {"failed": done.stderr[-2000:]}
            if done.returncode == 0:
                found = json.loads(done.stdout.splitlines()[-1])
                losses.append(found.get("losses"))
            failed += done.returncode != 0
            line = json.dumps(case | found)
            print(line, flush=True)
            if asked.out is not None:
                with asked.out.open("a") as file:
                    file.write(line + "\n")
    # The first losses are computed of the same weights by the same kernels. Attention's
    # backward pass adds in no fixed order in long rows, unless it is asked to.
    first = [one[:1] for one in losses] if not asked.deterministic else losses
    if any(one != first[0] for one in first):
        print("the losses of the places differ", file=sys.stderr)
        failed += 1
    pairs = [zip(one or (), losses[0] or (), strict=True) for one in losses]
    apart = max((abs(a - b) for pair in pairs for a, b in pair), default=0.0)
    print(f"losses of all steps differ by {apart:.2g} at most", file=sys.stderr)
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
