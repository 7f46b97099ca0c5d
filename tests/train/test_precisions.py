"""What a run keeps, multiplies and leaves behind in each precision."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.features import FEATURES
from lumina.model.fp8 import fitting_experts, fitting_layers
from tiny_runs import Program, Runs, seen


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def on_this_cpu(runs: Runs, *names: str) -> None:
    """Let the reference products of a feature stand for the hardware's."""
    for name in names:
        able = dataclasses.replace(FEATURES[name], needs=lambda machine: None)
        runs.monkeypatch.setitem(FEATURES, name, able)


@pytest.mark.covers("PRC-03: mixed_fp8", "PRC-03: fp8_e4m3")
def test_float8_layers_train_near_bfloat16_ones(runs: Runs) -> None:
    on_this_cpu(runs, "fp8")

    def layers(program: Program, batches: Any) -> list[bool]:
        fitting = fitting_layers(program.network.backbone.blocks)
        return [layer.product is not None for layer in fitting]

    losses: dict[str, list[float]] = {}
    for value in ("mixed_bf16", "mixed_fp8", "fp8_e4m3"):
        found: list[list[bool]] = []
        run = runs.train(seen(layers, found), precision=value, steps=2)
        assert found == [[value != "mixed_bf16"] * 8] * 2
        losses[value] = run.column("loss")
        # Weights stay float32 between steps, whatever multiplies them.
        assert run.tensor("embedding.weight").dtype == torch.float32
    assert losses["mixed_fp8"] == pytest.approx(losses["mixed_bf16"], rel=0.03)
    # The first forward is the same; the gradients are not.
    assert losses["mixed_fp8"][0] == losses["fp8_e4m3"][0] != losses["mixed_bf16"][0]
    assert losses["mixed_fp8"][1:] != losses["fp8_e4m3"][1:]


@pytest.mark.covers("KRN-17: fallback for unsupported operations")
def test_experts_and_layers_multiply_float8_where_they_fit(runs: Runs) -> None:
    """A width that is no multiple of 16 stays as it is, and so do places."""
    on_this_cpu(runs, "fp8", "fp8_experts")
    experts = {"use_moe": True, "num_experts": 4, "moe_intermediate_size": 32}
    found: list[tuple[int, int]] = []

    def counts(program: Program, batches: Any) -> tuple[int, int]:
        blocks = program.network.backbone.blocks
        layers = [one for one in fitting_layers(blocks) if one.product is not None]
        routed = [one for one in fitting_experts(blocks) if "experts" in vars(one)]
        return len(layers), sum(isinstance(one.experts, partial) for one in routed)

    taken = {}
    for name, options in {
        "bfloat16": {"precision": "mixed_bf16"},
        "layers": {"precision": "mixed_fp8"},
        "by rows": {"precision": "mixed_fp8", "fp8_scaling": "rows"},
        "experts": {"precision": "mixed_fp8", "fp8_experts": True},
    }.items():
        taken[name] = runs.train(
            seen(counts, found), steps=2, **(experts | options)
        ).column("loss")
    assert found[::2] == [(0, 0), (4, 0), (4, 0), (4, 2)]
    assert len({tuple(losses) for losses in taken.values()}) == 4
    for losses in taken.values():
        assert losses == pytest.approx(taken["bfloat16"], rel=0.03)
    found.clear()
    narrow = experts | {"moe_intermediate_size": 24}
    runs.train(seen(counts, found), steps=1, precision="mixed_fp8", fp8_experts=True,
               **narrow)  # fmt: skip
    assert found == [(4, 0)]
    places = {"moe_dispatch": "capacity", "precision": "mixed_fp8"}
    runs.refused("E002", fp8_experts=True, **(experts | places))
    runs.refused("E002", fp8_experts=True, precision="mixed_bf16", **experts)


@pytest.mark.thorough
@pytest.mark.parametrize("scaling", ["tensor", "rows"])
def test_a_resumed_float8_run_goes_on_to_the_bit(runs: Runs, scaling: str) -> None:
    """Scales are those of the values at hand: there is no history to lose."""
    on_this_cpu(runs, "fp8")
    options: dict[str, Any] = {"precision": "mixed_fp8", "fp8_scaling": scaling}
    whole = runs.train(steps=4, **options)
    half = runs.train(steps=2, **options)
    again = runs.train(**options, steps=4, resume=str(half.folder), run_dir=None)
    assert again.column("loss")[-2:] == whole.column("loss")[2:]
    for name, value in whole.tensors.items():
        assert torch.equal(again.tensors[name], value)


@pytest.mark.covers("PRC-02: fp64", "PRC-03: fp8_e5m2")
@pytest.mark.parametrize(
    ("value", "missing"), [("fp64", "float32"), ("fp8_e5m2", "cuBLAS")]
)
def test_what_no_device_can_do_is_refused_by_name(
    runs: Runs, value: str, missing: str
) -> None:
    message = runs.refused("E003", precision=value)
    assert value in message and missing in message


@pytest.mark.covers("KRN-22: TF32")
def test_switches_of_torch_are_set_for_the_run_alone(runs: Runs) -> None:
    on_this_cpu(runs, "tf32")
    before = torch.get_float32_matmul_precision()
    found: list[str] = []
    look = seen(lambda p, b: torch.get_float32_matmul_precision(), found)
    runs.train(look, precision="tf32", steps=1)
    assert found == ["high"]
    assert torch.get_float32_matmul_precision() == before == "highest"


@pytest.mark.covers("PRC-05: --model-dtype fp32, fp16, bf16")
@pytest.mark.parametrize(
    # oneDNN takes seconds to make its first float16 kernels on a busy processor.
    "value",
    ["bf16", pytest.param("fp16", marks=pytest.mark.thorough)],
)
def test_weights_of_16_bits_have_no_masters_and_resume_to_the_bit(
    runs: Runs, value: str
) -> None:
    """Without gradients that need a scale, float16 can be tried on a CPU too."""
    on_this_cpu(runs, "fp16")
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[value]
    options: dict[str, Any] = {
        "model_dtype": value,
        "amp": False,
        "precision": "auto",
        "ema_decay": 0.5,
        "batch_size": {"bf16": 2, "fp16": 4}[value],  # 2: gradients accumulate
    }
    found: list[set[Any]] = []

    def kept(program: Program, batches: Any) -> set[Any]:
        slots = program.optimizer.slots
        held = {slot.parameter.dtype for slot in slots} | {program.compute_dtype}
        return held | {slot._wide for slot in slots}  # type: ignore[attr-defined]

    whole = runs.train(seen(kept, found), **options, steps=4)
    assert found == [{dtype, None}] * 4
    half = runs.train(**options, steps=2)
    again = runs.train(**options, steps=4, resume=str(half.folder), run_dir=None)
    for run in (whole, again):
        for name, tensor in run.tensors.items():
            assert torch.equal(tensor, tensor.to(dtype).float()), name
    assert whole.column("loss")[2:] == again.column("loss")[-2:]
    for name, tensor in whole.tensors.items():
        assert torch.equal(tensor, again.tensors[name]), name
