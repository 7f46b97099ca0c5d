"""Options of the machine: kernels, memory, precision, processes."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from lumina.config import Config
from lumina.data.stream import StepBatches
from lumina.errors import LuminaError
from lumina.observe.console import Console
from lumina.ops.attention import dispatch
from lumina.plan import environment
from lumina.plan.plan import Plan
from lumina.train import Trainer, batch_search
from option_effects import shows
from tiny_runs import Program, Runs, seen, story

RANKS = Path(__file__).parents[1] / "train" / "test_ranks.py"


@pytest.mark.covers("CFG-17: CPU")
@shows("device")
def device(runs: Runs) -> None:
    found: list[str] = []
    look = seen(lambda p, b: next(p.network.parameters()).device.type, found)
    runs.train(look, device="cpu", steps=1)
    if torch.cuda.is_available():
        runs.train(look, device="cuda", steps=1)
        assert found == ["cpu", "cuda"]
    else:
        assert found == ["cpu"]
        assert "CUDA" in runs.refused("E003", device="cuda")


@pytest.mark.covers("CFG-17: cuda-ids")
@shows("cuda_ids")
def chosen_gpus(runs: Runs) -> None:
    """They are the only ones that torch sees; where there is none, none is replaced."""
    runs.monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    runs.monkeypatch.setenv("LUMINA_CUDA_IDS", "")
    runs.monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    assert "CUDA" in runs.refused("E003", device="auto", cuda_ids=(2,))
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
    assert "device is cpu" in runs.refused("E002", device="cpu", cuda_ids=(0,))


@shows("cap_memory")
def memory_of_a_smaller_card(runs: Runs) -> None:
    """Plans of a GPU are in tests/plan/test_context_tiers.py; here there is none."""
    assert "the run is on the CPU" in runs.refused("E003", cap_memory="8 GB")
    assert "cannot be 'large'" in runs.refused("E005", cap_memory="large")


@shows("tier")
def tier_of_contexts(runs: Runs) -> None:
    """Rows have the length of the tier, and a run that goes on keeps it."""
    runs.data.write_text(story(600))
    config = runs.config(batch_size=1, global_batch_size=1, steps=1)
    chosen = {n: config.get(n) for n in config.provenance if config.is_chosen(n)}
    leaves = {name: value for name, value in chosen.items() if name != "seq_length"}
    folder = runs.folder / "tiered"
    asked = leaves | {"run_dir": str(folder), "tier": "1"}
    assert 4500 < trained(asked)["tokens"] <= 4608
    again = {"run_dir": str(folder), "auto_resume": True, "steps": 2}
    assert 9000 < trained(again)["tokens"] <= 2 * 4608
    with pytest.raises(LuminaError, match="4,608 tokens, those of tier 2 10,240"):
        trained(again | {"steps": 3, "tier": "2"})
    assert "seq_length is 32" in runs.refused("E002", tier="1")


def trained(leaves: dict[str, Any]) -> dict[str, Any]:
    """The last row of a run with these settings and no others."""
    console = Console(stream=io.StringIO(), live=False)
    result = Trainer(Config(**leaves), console=console).train()
    lines = (result.run_dir / "metrics.jsonl").read_text().splitlines()
    return dict(json.loads(lines[-1]))


@pytest.mark.covers("TRN-34: --strict forbids fallback")
@shows("strict")
def strict(runs: Runs) -> None:
    run = runs.train(attention="flash2", steps=1)
    assert "flash2 is not available here" in " ".join(run.printed.split())
    assert "flash2" in runs.refused("E003", attention="flash2", strict=True)
    assert runs.train(strict=True, steps=1).first_loss == run.first_loss


@shows("adapt_to_memory")
def adapted(runs: Runs) -> None:
    """On GPUs alone: tests/plan/test_devices.py plans for several sizes."""
    from machines import gpu, plan_for

    for value, rows in ((False, 4), (True, 2)):
        config = runs.config(device="auto", global_batch_size=8, adapt_to_memory=value)
        plan = plan_for(config, gpu("Tesla T4", 14.5, (7, 5)))
        assert (plan.micro_batch_size, plan.global_batch_size) == (rows, 8)


@shows("nproc", "parallel")
def processes(runs: Runs) -> None:
    """Several ranks are tested where they are started; here, what one makes of it."""
    tested = {
        node.name: ast.unparse(node)
        for node in ast.parse(RANKS.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    parallel = tested["test_two_ranks_give_the_losses_of_one"]
    assert "'ddp'" in parallel and "'fsdp2'" in parallel
    assert "nproc" in tested["test_launchers"]
    runs.train(nproc=1, steps=1)
    assert "nproc" in runs.refused("E002", nproc=2)
    plans = [
        _plan(runs, parallel=value).parallel
        for value in ("ddp", "zero1", "zero2", "fsdp2", "auto", "zero")
    ]
    assert plans == ["ddp", "zero1", "zero2", "fsdp2", "ddp", "zero1"]


def _plan(runs: Runs, **leaves: Any) -> Any:
    return plan_of_two(runs.config(global_batch_size=8, **leaves))


def plan_of_two(config: Any) -> Any:
    """The Plan of two processes."""
    from lumina.plan.environment import probe
    from lumina.plan.make import make_plan

    return make_plan(
        config,
        probe(config),
        tokenizer_vocab_size=300,
        rows_per_epoch=50,
        world_size=2,
    )


@pytest.mark.covers("PRC-01: fp32", "PRC-01: bf16", "CFG-08: E003 hardware")
@shows("precision")
def precision(runs: Runs) -> None:
    def weights(program: Program, step: StepBatches) -> torch.dtype:
        return program.network.backbone.embedding.weight.dtype

    losses = []
    for value, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        found: list[torch.dtype] = []
        run = runs.train(seen(weights, found), precision=value)
        assert found == [dtype] * 3
        assert run.tensor("embedding.weight").dtype == torch.float32
        losses.append(run.first_loss)
    assert losses[0] != losses[1] == pytest.approx(losses[0], rel=0.02)
    if not torch.cuda.is_available():
        for value in ("fp16", "tf32", "mixed_fp8", "fp8_e4m3"):
            assert "CPU" in runs.refused("E003", precision=value)


@pytest.mark.covers("PRC-05: --amp/--no-amp")
@shows("amp", "model_dtype")
def weights_and_products(runs: Runs) -> None:
    """(type of the weights, type of the products) for each pair of the two options."""
    types = (torch.float32, torch.bfloat16)

    def look(program: Program, step: StepBatches) -> tuple[torch.dtype, ...]:
        return program.optimizer.slots[0].parameter.dtype, program.compute_dtype

    for amp, dtype, precision, wanted in (
        (True, "fp32", "fp32", (types[0], types[0])),
        (True, "bf16", "fp32", (types[1], types[0])),
        (False, "fp32", "auto", (types[0], types[0])),
        (False, "bf16", "auto", (types[1], types[1])),
    ):
        found: list[tuple[torch.dtype, ...]] = []
        kept = {"amp": amp, "model_dtype": dtype, "precision": precision}
        run = runs.train(seen(look, found), **kept, steps=1)
        assert found == [wanted], kept
        written = run.tensor("embedding.weight")
        assert torch.equal(written, written.bfloat16().float()) == (dtype == "bf16")
    message = runs.refused("E002", amp=False, precision="bf16")
    assert "precision bf16" in message and "model_dtype fp32" in message


@pytest.mark.covers(
    "MEM-01: gradient checkpointing full", "MEM-02: selective checkpointing 'selective'"
)
@shows("gradient_checkpointing")
def recomputed(runs: Runs) -> None:
    """Full runs a block's products again, selective only its other work.

    In segments the blocks of all but the last run forwards three times.
    """
    work: dict[str, tuple[int, int]] = {}
    losses = set()
    kinds = ("none", "attention", "feedforward", "selective", "full", "sqrt")
    kinds += ("except_attention",)
    for mode in kinds:
        flops, calls = FlopCounterMode(display=False), []

        @contextlib.contextmanager
        def count(
            program: Program,
            step: StepBatches,
            flops: FlopCounterMode = flops,
            calls: list[Any] = calls,
        ) -> Iterator[None]:
            norm = program.network.backbone.blocks[0].feedforward_norm
            with contextlib.closing(_Hook(norm, calls)), flops:
                yield

        run = runs.train(count, gradient_checkpointing=mode, steps=1, num_layers=4)
        work[mode] = (flops.get_total_flops(), len(calls))
        losses.add(run.first_loss)
    assert len(losses) == 1
    assert work["none"][1] == 1 and work["selective"][1] == work["full"][1] == 2
    assert work["selective"][0] == work["none"][0] < work["full"][0]
    assert work["full"][0] < work["sqrt"][0] and work["sqrt"][1] == 3
    # The norm of the feed-forward runs again with its branch.
    assert work["attention"][1] == 1 and work["feedforward"][1] == 2
    assert work["none"][0] < work["attention"][0] < work["full"][0]
    # Attention itself is not in this count (tests/assemble/test_checkpointing.py).
    assert work["except_attention"] == work["full"]


class _Hook:
    """Counts the forwards of a module."""

    def __init__(self, module: torch.nn.Module, calls: list[Any]) -> None:
        self._handle = module.register_forward_hook(lambda *_: calls.append(1))

    def close(self) -> None:
        self._handle.remove()


@pytest.mark.covers("TRN-22: --compile (torch.compile)")
@shows("compile")
def compiled(runs: Runs) -> None:
    """The block's graph reaches the compiler, and its loss is the eager one's."""
    from torch._dynamo.utils import counters

    losses, graphs = [], []
    # The kernels themselves need a C++ compiler and minutes; what is generated from
    # is the same. The real ones run in tests/gpu.
    compile_ = torch.compile
    runs.monkeypatch.setattr(
        torch, "compile", lambda f, **_: compile_(f, backend="aot_eager")
    )
    for value in (False, True):
        counters.clear()
        run = runs.train(compile=value, steps=1, num_layers=1)
        losses.append(run.first_loss)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == 0 < graphs[1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.covers("MOD-09: PyTorch SDPA, plain", "KRN-09: fallback to SDPA")
@shows("attention")
def attention(runs: Runs) -> None:
    losses = []
    names = ("sdpa", "reference", "blockwise")
    for value in names:
        calls = dict.fromkeys(names, 0)
        for name in calls:
            runs.monkeypatch.setattr(dispatch, name, _counted(name, calls))
        losses.append(runs.train(attention=value, steps=1).first_loss)
        runs.monkeypatch.undo()
        assert calls[value] >= 2 and sum(calls.values()) == calls[value]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    if not torch.cuda.is_available():
        run = runs.train(attention="flash2", steps=1)
        assert run.first_loss == pytest.approx(losses[0], rel=1e-5)
        assert "flash2 is not available here" in " ".join(run.printed.split())


def _counted(name: str, calls: dict[str, int]) -> Any:
    function = getattr(dispatch, name)

    def counted(*arguments: Any, **named: Any) -> Any:
        calls[name] += 1
        return function(*arguments, **named)

    return counted


class _Largest(TorchDispatchMode):
    """Keeps the bytes of the largest float tensor [rows, columns] a product gives."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.columns, self.bytes = columns, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.mm.default and out.shape[1] == self.columns:
            self.bytes = max(self.bytes, out.numel() * out.element_size())
        return out


@pytest.mark.covers("MEM-18")
@shows("loss_chunk_bytes")
def logits_at_a_time(runs: Runs) -> None:
    """4 rows of 32 tokens and 320 words in float32: 160 KiB of logits in all."""
    sizes, losses = [], []
    for most in (2**16, 2**20):
        mode = _Largest(320)
        run = runs.train(
            lambda program, step, mode=mode: mode, loss_chunk_bytes=most, steps=1
        )
        sizes.append(mode.bytes)
        losses.append(run.first_loss)
    assert sizes[0] <= 2**16 < sizes[1] == 4 * 32 * 320 * 4
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@shows("deterministic")
def deterministic(runs: Runs) -> None:
    """torch then chooses kernels without races, and fills memory it hands out."""
    runs.monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        for value in (False, True):
            found: list[tuple[bool, bool]] = []
            look = seen(
                lambda p, b: (
                    torch.are_deterministic_algorithms_enabled(),
                    bool(torch.empty(1000).isnan().all()),
                ),
                found,
            )
            runs.train(look, deterministic=value, steps=1)
            assert found == [(value, value)]
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.covers("TRN-29")
@shows("cuda_warm_up")
def device_warmed_up(runs: Runs) -> None:
    """Before the clock of the first step begins; here a CPU stands for the GPU."""
    from lumina.train import warm_up
    from lumina.train.clock import StepClock

    runs.monkeypatch.setattr(warm_up, "LAZY", ("cpu",))
    made: list[str] = []

    def noted(owner: Any, name: str, word: str) -> None:
        function = getattr(owner, name)

        def call(*given: Any, **named: Any) -> Any:
            result = function(*given, **named)
            made.append(word)
            return result

        runs.monkeypatch.setattr(owner, name, call)

    noted(warm_up, "warm_device", "warm")
    noted(StepClock, "restart", "restart")
    noted(StepClock, "step_ended", "timed")
    losses = []
    for value in (False, True):
        made.clear()
        losses.append(runs.train(cuda_warm_up=value, steps=2).column("loss"))
        first = made[: made.index("timed")]
        assert made.count("warm") == value
        if value:
            assert first[-2:] == ["warm", "restart"]
    assert losses[0] == losses[1]


_HALVES = """
import torch
from lumina.features import Choice, Feature, register

def build(network, plan):
    for block in network.backbone.blocks:
        whole = block.feedforward.forward
        block.feedforward.forward = lambda x, whole=whole: torch.cat(
            [whole(half) for half in x.chunk(2, dim=1)], dim=1
        )

register(
    Feature(
        name="NAME",
        summary="the feed-forward of each half of a row",
        automatic=lambda plan, machine: Choice(True, "for a test"),
        build=build,
    )
)
"""


@shows("features", "no_features")
def features(runs: Runs) -> None:
    """A feature from another file is built into the network, or is not."""
    name = f"halves_{abs(hash(str(runs.folder)))}"
    file = runs.folder / "halves.py"
    file.write_text(_HALVES.replace("NAME", name))
    found: list[int] = []

    def count(program: Program, batches: StepBatches) -> int:
        wrapped = [b.feedforward for b in program.network.backbone.blocks]
        return sum("forward" in vars(feedforward) for feedforward in wrapped)

    from lumina.features import FEATURES

    try:
        look = seen(count, found)
        runs.train(look, plugins=(str(file),), no_features=(name,), steps=1)
        off = FEATURES.pop(name)
        FEATURES[name] = dataclasses.replace(off, automatic=None)
        runs.train(look, plugins=(str(file),), features=(name,), steps=1)
        assert found == [0, 2]
        message = runs.refused(
            "E002", plugins=(str(file),), features=(name,), no_features=(name,)
        )
        assert name in message
    finally:
        del FEATURES[name]


@pytest.mark.covers("TRN-18: --auto-batch-size")
@shows("auto_batch_size", "target_memory_usage")
def measured_batch(runs: Runs) -> None:
    """Sequences of a forward follow what steps are measured to take."""
    runs.monkeypatch.setenv("LUMINA_CACHE", str(runs.folder))

    def measure(plan: Plan, plugins: object) -> batch_search.Measured:
        size = plan.micro_batch_size
        return batch_search.Measured(size, size * 2**23)

    runs.monkeypatch.setattr(batch_search, "measure", measure)
    # The share is one of the machine's memory, which is much here and little there.
    runs.monkeypatch.setattr(environment, "host_memory_bytes", lambda: 2**34)

    def forwards(**leaves: object) -> int:
        found: list[int] = []
        shape = {"batch_size": None, "global_batch_size": 64, "steps": 1}
        look = seen(lambda program, step: len(step.micro_batches), found)
        runs.train(look, **(shape | leaves))
        return found[0]

    wide, narrow = (
        forwards(auto_batch_size=True, target_memory_usage=share)
        for share in (0.9, 0.002)
    )
    assert forwards() == wide == 1 < narrow
