"""A base in few bits in 16-bit arithmetic, and the estimate of what it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.assemble.program import Program
from lumina.cli.main import main
from lumina.model.layers import Linear
from lumina.ops.low_bits.codec import found_codec
from lumina.ops.low_bits.product import product
from tiny_runs import Runs, seen

PEFT = {"use_peft": True, "lora_r": 4, "hidden_size": 64, "load_in_4bit": True}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


@pytest.mark.covers("PRC-12: bf16/fp16 compute", "PRC-12: NF4")
def test_adapters_train_in_bf16_beside_nf4(runs: Runs) -> None:
    base = runs.train(hidden_size=64, steps=2)
    started = PEFT | {"init_from": str(base.folder), "steps": 2}
    types: set[tuple[torch.dtype, torch.dtype]] = set()

    def watched(program: Program, _: Any) -> None:
        for module in program.network.backbone.blocks.modules():
            if isinstance(module, Linear) and module.stored is not None:
                assert {one.codec for one in module.stored.first(None)} == {
                    "nf4_double"
                }
                module.register_forward_hook(
                    lambda _, args, y: types.add((args[0].dtype, y.dtype))
                )

    narrow = runs.train(seen(watched, []), precision="mixed_bf16", **started)
    assert types == {(torch.bfloat16, torch.bfloat16)}
    wide = runs.train(precision="fp32", **started)
    pairs = list(zip(narrow.column("loss"), wide.column("loss"), strict=True))
    assert all(0 < abs(one - other) < 0.05 for one, other in pairs)


@pytest.mark.covers("PRC-12: bf16/fp16 compute")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_products_and_gradients_with_nf4_in_16_bits(dtype: torch.dtype) -> None:
    """Against the same matrix widened, in float64; training in fp16 needs a GPU."""
    generator = torch.Generator().manual_seed(0)
    packed = found_codec("nf4_double").pack(torch.randn(48, 96, generator=generator))
    x = torch.randn(5, 96, generator=generator).to(dtype).requires_grad_()
    y = product(x, [packed])
    assert y.dtype == dtype
    y.float().square().sum().backward()
    exact = x.detach().double().requires_grad_()
    whole = packed.unpacked().double()
    expected = exact @ whole.T
    expected.square().sum().backward()
    most = 6 * torch.finfo(dtype).eps
    for found, wanted in ((y, expected), (x.grad, exact.grad)):
        error = (found.double() - wanted).norm() / wanted.norm()
        assert 0 < float(error) < most


@pytest.mark.covers("PRC-15: dynamic memory estimate")
@pytest.mark.parametrize(
    "options",
    [
        {"lora_r": 2, "lora_target_modules": ["minimal"]},
        {"lora_r": 32},
        {"lora_r": 8, "optimizer": "adamw_8bit", "seq_length": 64},
        {"load_in_4bit": False, "load_in_8bit": True, "peft_also_train": ["heads"]},
    ],
    ids=["small", "large", "8-bit states", "heads"],
)
def test_the_estimate_of_qlora_follows_its_options(
    options: dict[str, Any], runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each part within a hundredth of what the run then holds, before it runs."""
    base = runs.train(hidden_size=64, steps=1, seq_length=64)
    started = PEFT | {"init_from": str(base.folder), "steps": 1} | options
    found: list[tuple[dict[str, int], dict[str, int]]] = []

    def parts(program: Program, _: Any) -> tuple[dict[str, int], dict[str, int]]:
        return dict(program.plan.memory), dict(program.held)

    runs.train(seen(parts, found), **started)
    (planned, held) = found[0]
    assert planned["weights"] == pytest.approx(held["model"], rel=0.01)
    assert planned["optimizer"] == pytest.approx(held["optimizer"], rel=0.01, abs=64)

    words = ["plan", "--init-from", str(base.folder), "--train-data", str(runs.data)]
    words += ["--use-peft", "--load-in-4bit", "--device", "cpu", "--lora-r"]
    totals = []
    for rank in ("2", "64"):
        assert main([*words, rank]) == 0
        totals.append(capsys.readouterr().out)
    assert totals[0] != totals[1] and "nf4_double" in totals[0]


@pytest.mark.covers("MOD-39: always-trainable LM and halting heads")
def test_heads_train_beside_adapters_in_full(runs: Runs) -> None:
    """The scores of tokens, and of a reasoner what decides to halt."""
    reasoner = {
        "use_hrm": True, "hrm_mode": "language_model", "h_layers": 1,
        "l_layers": 1, "halt_max_steps": 2,
    }  # fmt: skip
    base = runs.train(steps=1, **reasoner)
    options = {"init_from": str(base.folder), "use_peft": True, "lora_r": 2, "steps": 2}
    run = runs.train(peft_also_train=["heads"], **options)
    names = {name for name in run.tensors if ".adapters." not in name}
    before, after = base.tensors, run.tensors
    assert any("halting" in name for name in names), names
    assert "objective.head.weight" in names
    for name in ("objective.head.weight", *(n for n in names if "halting" in n)):
        assert not torch.equal(before[name], after[name]), name
    plain = runs.train(**options)
    assert "objective.head.weight" not in plain.tensors
