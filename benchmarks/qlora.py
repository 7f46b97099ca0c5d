"""How long a row QLoRA trains on under a cap, and how fast, with a peer beside.

    python benchmarks/qlora.py --caps 8 12 16 24 --out qlora.jsonl
    python benchmarks/qlora.py --caps 24 --lengths 34816 --peer --out qlora.jsonl
    python benchmarks/qlora.py --tiny                    # a CPU, whether it works

The model has the shape of Llama 3 8B (32 blocks, width 4,096, vocabulary 128,256) and
random weights, its matrices in NF4 with double quantisation; LoRA of rank 32 on every
linear layer; one row of one document a step. For each cap on the memory of the process
(GiB; what CUDA itself takes is outside), the planner names the longest row whose bound
fits, in whole multiples of 1,024. That row is trained on for `--steps` steps, each
timed. With `--layers` fewer blocks are trained at the length that the whole model has,
under a cap that is lower by what the others hold. `--beyond` trains on a row longer by
this share, too, which may run out of memory. Every case is a process of its own. A line
of JSON holds what was planned, allocated, reserved, and the seconds of each step.

The peer is transformers with peft, bitsandbytes and Liger Kernel: gradient
checkpointing, 8-bit AdamW, and with `--peer-offload` the inputs of blocks in pinned
host memory by `torch.autograd.graph.save_on_cpu`.
"""

from __future__ import annotations

import argparse
import json
import os
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
    "vocab_size": 512, "hidden_size": 64, "num_layers": 2, "num_heads": 4,
    "num_kv_heads": 2, "intermediate_size": 192, "rope_theta": 10_000.0,
}  # fmt: skip
STAYS = ("weights", "master_weights", "gradients", "optimizer")
"""What a plan counts that grows with the number of blocks and stays."""


def config_of(case: dict[str, Any], length: int) -> Any:
    """The options of a run."""
    from lumina.config import Config

    gpu = case["device"] == "cuda"
    return Config(
        **(TINY if case["tiny"] else LLAMA) | {"num_layers": case["num_layers"]},
        tie_embeddings=False,
        seq_length=length,
        batch_size=1,
        global_batch_size=1,
        init_from="none",
        use_peft=True,
        peft_method="lora",
        lora_r=32,
        lora_alpha=32,
        lora_dropout=0.0,
        lora_target_modules=("full",),
        load_in_4bit=True,
        precision="mixed_bf16" if gpu else "fp32",
        device=case["device"],
        cap_memory=f"{case['cap']} GiB" if gpu else None,
        gradient_checkpointing=case["kind"],
        activations_in=case["place"],
        feedforward_tile=case["tile"],
        attention_head_groups=case["groups"],
        loss_chunk_bytes=case["chunk"],
        optimizer="adamw_8bit" if gpu else "adamw",
        compile=case["compile"] and gpu,
        steps=100,
        warmup_steps=0,
    )


def plan_of(case: dict[str, Any], length: int) -> Any:
    """The Plan of a row of this length."""
    from lumina.plan.environment import capped, probe
    from lumina.plan.make import make_plan

    config = config_of(case, length)
    machine = capped(probe(config), config)
    return make_plan(config, machine, tokenizer_vocab_size=None, rows_per_epoch=None)


def longest(case: dict[str, Any]) -> int:
    """The longest row, in multiples of 1,024, that the planner admits."""
    from lumina.errors import LuminaError

    def fits(length: int) -> bool:
        try:
            plan_of(case, length)
        except LuminaError:
            return False
        return True

    low, high = 0, 1024
    while high <= 2**20 and fits(high):
        low, high = high, 2 * high
    while high - low > 1024:
        middle = (low + high) // 2048 * 1024
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def ours(case: dict[str, Any]) -> dict[str, Any]:
    """Steps of Lumina."""
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

    whole = case | {"num_layers": (TINY if case["tiny"] else LLAMA)["num_layers"]}
    length = case["length"] or int(longest(whole) * (1 + case["beyond"]))
    missing = 0.0
    if case["num_layers"] < whole["num_layers"]:
        # The other blocks take their room all the same.
        full, part = (plan_of(one, length).memory for one in (whole, case))
        missing = sum(full[name] - part[name] for name in STAYS) / GIB
    known = {"length": length}
    if case["beyond"]:  # what is not admitted is tried all the same
        case = case | {"cap": 4 * case["cap"]}
    began = time.perf_counter()
    plan = plan_of(case, length)
    known |= {
        "bound": plan.memory["bound"], "memory": plan.memory,
        "elsewhere": plan.elsewhere, "planned_s": time.perf_counter() - began,
    }  # fmt: skip
    device = torch.device(plan.device)
    tensors = declared(plan.spec)
    generator = torch.Generator(device).manual_seed(0)

    def drawn(logical: str) -> torch.Tensor:
        shape = shapes[logical]
        value = torch.ones(shape, device=device, dtype=torch.bfloat16)
        if len(shape) > 1:
            value.normal_(0.0, 0.02, generator=generator)
        return value

    shapes: dict[str, Any] = {}
    for one in tensors.values():
        shapes |= {name: shape for name, (shape, _) in one.logical().items()}
    first = FirstValues(tensors, placed(plan.spec, tensors), plan.seed, drawn)

    class Drawn(StateSource):
        def names(self) -> list[str]:
            own = {n for one in tensors.values() if one.saved for n in one.logical()}
            return sorted(own - first.names)

        def tensor(self, name: str) -> torch.Tensor:
            return drawn(name)

    program = assemble(plan, Started(Drawn(State()), first, first.names))
    known["assembled_s"] = time.perf_counter() - began
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        known["held"] = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        cap = case["cap"] if not case["beyond"] else case["cap"] / 4
        limit(cap - missing)
    ids = torch.randint(0, 255, (1, length))
    batch = Batch.from_rows(ids, ids.roll(-1, 1))

    def step(number: int) -> float:
        batches = StepBatches([batch], length, length, {}, None, [])
        return float(train_step(program, batches, number)[0].item())

    return known | timed(step, case["steps"], device.type)


def peer(case: dict[str, Any]) -> dict[str, Any]:
    """Steps of transformers with peft, bitsandbytes and Liger Kernel."""
    import bitsandbytes as bnb
    import torch
    from liger_kernel.transformers import apply_liger_kernel_to_llama
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    apply_liger_kernel_to_llama()
    shape = TINY if case["tiny"] else LLAMA
    config = LlamaConfig(
        vocab_size=shape["vocab_size"], hidden_size=shape["hidden_size"],
        intermediate_size=shape["intermediate_size"],
        num_hidden_layers=case["num_layers"], num_attention_heads=shape["num_heads"],
        num_key_value_heads=shape["num_kv_heads"], max_position_embeddings=2**20,
        rope_parameters={"rope_type": "default", "rope_theta": shape["rope_theta"]},
        tie_word_embeddings=False, use_cache=False,
    )  # fmt: skip
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    torch.manual_seed(0)
    for path, module in list(model.named_modules()):
        if not isinstance(module, torch.nn.Linear) or path == "lm_head":
            continue
        parent, _, leaf = path.rpartition(".")
        matrix = torch.randn(module.weight.shape, device="cuda", dtype=torch.bfloat16)
        linear = bnb.nn.Linear4bit(
            module.in_features, module.out_features, bias=False,
            compute_dtype=torch.bfloat16, quant_type="nf4", compress_statistics=True,
            quant_storage=torch.uint8, device="meta",
        )  # fmt: skip
        linear.weight = bnb.nn.Params4bit(
            (matrix * 0.02).cpu(), requires_grad=False, quant_type="nf4",
            compress_statistics=True,
        )  # fmt: skip
        setattr(model.get_submodule(parent), leaf, linear.cuda())
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                value = torch.ones_like(parameter, device="cuda", dtype=torch.bfloat16)
                if value.ndim > 1:
                    value.normal_(0.0, 0.02)
                module.register_parameter(name, torch.nn.Parameter(value, False))
    model.model.rotary_emb = type(model.model.rotary_emb)(config, device="cuda")
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    model = get_peft_model(
        model,
        LoraConfig(r=32, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"),
    ).train()
    for parameter in model.parameters():
        if parameter.requires_grad:  # in float32 they would widen every input
            parameter.data = parameter.data.bfloat16()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = bnb.optim.AdamW8bit(trained, lr=1e-4)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    limit(case["cap"])
    ids = torch.randint(0, 255, (1, case["length"]), device="cuda")
    from contextlib import nullcontext

    def step(number: int) -> float:
        away = torch.autograd.graph.save_on_cpu(pin_memory=True)
        with away if case["peer_offload"] else nullcontext():
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.item())

    found = {"length": case["length"], "held": held}
    return found | timed(step, case["steps"], "cuda")


def limit(gib: float) -> None:
    """Cap what this process may allocate."""
    import torch

    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, gib * GIB / total))


def timed(step: Any, count: int, device: str) -> dict[str, Any]:
    """Seconds and loss of each step, and the most memory."""
    import torch

    seconds, losses = [], []
    for number in range(count):
        began = time.perf_counter()
        losses.append(step(number))  # its loss is read, so it has ended
        seconds.append(round(time.perf_counter() - began, 4))
    found: dict[str, Any] = {"seconds": seconds, "losses": losses}
    if device == "cuda":
        found["allocated"] = torch.cuda.max_memory_allocated()
        found["reserved"] = torch.cuda.max_memory_reserved()
    return found


def main() -> int:
    """Run every case, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--caps", type=float, nargs="+", default=[24.0])
    parser.add_argument("--lengths", type=int, nargs="*", default=[0])
    parser.add_argument("--beyond", type=float, default=0.0)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", default=["except_attention"])
    parser.add_argument("--place", default="host", choices=("device", "host", "disk"))
    parser.add_argument("--tile", type=int, default=0)
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument("--chunk", type=int, default=2**28)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--peer-offload", action="store_true")
    parser.add_argument("--plan-only", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--timeout", type=float, default=300.0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--case", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.case:
        case = json.loads(asked.case)
        print(json.dumps((peer if case["peer"] else ours)(case)))
        return 0
    for cap in asked.caps:
        for length in asked.lengths:
            for kind in asked.kinds:
                shape = TINY if asked.tiny else LLAMA
                one(asked, {
                    "cap": cap, "length": length, "kind": kind, "place": asked.place,
                    "tile": asked.tile, "groups": asked.groups, "chunk": asked.chunk,
                    "peer": asked.peer, "compile": not asked.no_compile,
                    "beyond": asked.beyond, "steps": asked.steps, "tiny": asked.tiny,
                    "peer_offload": asked.peer_offload,
                    "num_layers": asked.layers or shape["num_layers"],
                    "device": "cpu" if asked.tiny else "cuda",
                })  # fmt: skip
    return 0


def one(asked: argparse.Namespace, case: dict[str, Any]) -> None:
    """One case in a process of its own."""
    if asked.plan_only:
        length = longest(case)
        print(case["cap"], case["kind"], length, plan_of(case, length).memory)
        return
    command = [sys.executable, __file__, "--case", json.dumps(case)]
    began = time.perf_counter()
    # What torch recommends where memory is short, for both.
    settings = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=asked.timeout,
            env=os.environ | settings,
        )  # fmt: skip
        said, problem = done.stdout, done.stderr if done.returncode else ""
    except subprocess.TimeoutExpired:
        said, problem = "", f"no end within {asked.timeout:.0f} s"
    found = case | {"took_s": round(time.perf_counter() - began, 1)}
    if problem:
        found["problem"] = problem[-1500:]
    else:
        found |= json.loads(said.splitlines()[-1])
    if asked.out:
        with asked.out.open("a") as file:
            file.write(json.dumps(found) + "\n")
    name = "peer" if case["peer"] else case["kind"]
    words = f"{case['cap']:>5} GiB  {name:<17}{found.get('length', '?'):>9}"
    if problem:
        print(words, problem.strip().splitlines()[-1][:150], flush=True)
        return
    best = min(found["seconds"])
    words += f"  {found['length'] / best:>9,.0f} tokens/s  {best:.2f} s  "
    for key in ("held", "bound", "allocated", "reserved"):
        if key in found:
            words += f"{key} {found[key] / GIB:.2f}  "
    print(words + f"loss {found['losses'][-1]:.3f}, in {found['took_s']} s", flush=True)


if __name__ == "__main__":
    sys.exit(main())
