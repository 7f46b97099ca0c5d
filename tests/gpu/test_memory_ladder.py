"""Real want of memory on a GPU: a cap that the allocator enforces, and a neighbour."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina import Config, Trainer
from lumina.errors import LuminaError
from lumina.state.reader import latest_good, open_checkpoint
from tiny_runs import Run, Runs

pytestmark = pytest.mark.gpu

WIDE: dict[str, Any] = {
    "device": "cuda", "hidden_size": 256, "intermediate_size": 1024, "num_layers": 6,
    "num_heads": 4, "num_kv_heads": 2, "seq_length": 256, "batch_size": 64,
    "global_batch_size": 64, "steps": 4, "dropout": 0.1, "compile": False,
    "clear_cache_every_n_steps": 1, "eval_fraction": 0.0,
}  # fmt: skip


@pytest.fixture
def runs(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Runs]:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path_factory.mktemp("cache")))
    yield Runs(tmp_path, monkeypatch)
    torch.cuda.set_per_process_memory_fraction(1.0)


def taken(runs: Runs, **changes: Any) -> tuple[Run, int]:
    """A run without a cap, and the most bytes that it reserved."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    run = runs.train(**(WIDE | changes))
    return run, torch.cuda.max_memory_reserved()


def held_before() -> int:
    """Bytes that earlier tests still hold in this process."""
    gc.collect()
    torch.cuda.empty_cache()
    return torch.cuda.memory_reserved()


def cap(size: int) -> None:
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(size / total)


def told(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.events if event["kind"] == kind]


@pytest.mark.parametrize(
    "model",
    [{}, {"use_moe": True, "num_experts": 4, "moe_intermediate_size": 512}],
    ids=["dense", "experts"],
)
def test_a_capped_run_is_one_that_began_on_its_rung(
    runs: Runs, model: dict[str, Any]
) -> None:
    _, whole = taken(runs, **model)
    _, eighth = taken(runs, **model, batch_size=8)
    cap((whole + 2 * eighth) // 3)
    run = runs.train(**(WIDE | model))
    (fits,) = told(run, "memory_recovered")
    layout = {
        "batch_size": fits["data"]["micro_batch_size"],
        "gradient_checkpointing": fits["data"]["gradient_checkpointing"],
    }
    assert layout["batch_size"] < 64
    again = runs.train(**(WIDE | model))  # remembered: nothing runs out
    assert not told(again, "out_of_memory")
    cap(torch.cuda.get_device_properties(0).total_memory)
    began = runs.train(**(WIDE | model | layout), forget_memory_limits=True)
    assert run.column("loss") == pytest.approx(began.column("loss"), rel=1e-4)


def test_no_room_at_all_ends_with_a_code(runs: Runs) -> None:
    held = held_before()
    _, least = taken(runs, batch_size=1, gradient_checkpointing="full")
    cap(held + 7 * (least - held) // 10)
    with pytest.raises(LuminaError) as caught:
        runs.train(**WIDE, forget_memory_limits=True)
    assert caught.value.code == "E201"


SQUATTER = """
import sys, torch
held = []
sys.stdin.readline()
leave = int(sys.argv[1])
for size in (2**30, 2**26, 2**23):
    while torch.cuda.mem_get_info()[0] > leave + size:
        held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.faults
@pytest.mark.whole_device
def test_a_neighbour_takes_the_memory_in_the_middle(runs: Runs) -> None:
    _, whole = taken(runs)
    _, eighth = taken(runs, batch_size=8)
    squatter = subprocess.Popen(
        [sys.executable, "-c", SQUATTER, str((whole - eighth) // 3)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert squatter.stdin is not None and squatter.stdout is not None

    def on_step(trainer: Trainer, row: Any) -> None:
        if row["step"] == 2:
            squatter.stdin.write("now\n")
            squatter.stdin.flush()
            assert squatter.stdout.readline() == "ready\n"

    config: Config = runs.config(**(WIDE | {"steps": 8}))
    try:
        result = Trainer(config, on_step=on_step).train()
    finally:
        squatter.stdin.close()
        squatter.wait()
    assert result.steps == 8
    events = (result.run_dir / "events.jsonl").read_text().splitlines()
    found = [e for e in map(json.loads, events) if e["kind"] == "out_of_memory"]
    assert found and found[0]["step"] >= 2
    assert found[0]["data"]["others_bytes"] > 2**30
    with open_checkpoint(latest_good(result.run_dir)) as reader:
        assert reader.meta.step == 8
