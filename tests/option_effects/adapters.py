"""Options of adapters."""

from __future__ import annotations

import shutil

import pytest
import torch

from lumina.state.reader import latest_good, open_checkpoint
from option_effects import shows
from tiny_runs import Run, Runs

PATH = "backbone.blocks.0.attention.qkv.adapters.default.q_proj"


def held(run: Run) -> dict[str, torch.Tensor]:
    """What the newest checkpoint itself holds."""
    folder = latest_good(run.folder)
    assert folder is not None
    with open_checkpoint(folder) as reader:
        return {name: reader.tensor(name) for name in reader.names()}


FLAGS = (
    "MOD-38: --use-peft, --peft-method, --lora-r, --lora-alpha, --lora-dropout, "
    "--lora-target-modules"
)


@shows("peft_preset")
def preset(runs: Runs) -> None:
    base = runs.train(steps=1)
    started = {"init_from": str(base.folder), "steps": 1, "use_peft": True}
    ranks = [
        held(runs.train(peft_preset=name, **started))[f"{PATH}.a"].shape[0]
        for name in (None, "budget", "efficient")
    ]
    assert ranks == [16, 4, 8]


@pytest.mark.covers(FLAGS)
@shows(
    "use_peft",
    "peft_method",
    "lora_r",
    "lora_alpha",
    "lora_dropout",
    "lora_target_modules",
    "peft_also_train",
)
def adapter(runs: Runs) -> None:
    base = runs.train(steps=1)
    init = {"init_from": str(base.folder), "steps": 1}
    plain = runs.train(**init)
    assert not any(".adapters." in name for name in held(plain))

    peft = init | {"use_peft": True, "lora_dropout": 0.0}
    usual = held(runs.train(**peft))
    assert f"{PATH}.a" in usual
    assert usual[f"{PATH}.a"].shape == (16, 32)
    other = held(
        runs.train(
            lora_r=3,
            lora_target_modules=("q_proj",),
            peft_also_train=("backbone.norm.*",),
            **peft,
        )
    )
    assert other[f"{PATH}.b"].shape == (32, 3)
    own = {name for name in other if ".adapters." not in name}
    assert own == {"backbone.norm.weight"}
    assert {name.split(".")[-2] for name in other.keys() - own} == {"q_proj"}

    # B begins at zero, so that its first gradient has the factor on the change; a
    # moment keeps it.
    def moment(**leaves: object) -> torch.Tensor:
        run = runs.train(**{**peft, "max_grad_norm": 1e9, **leaves})
        return run.slot("exp_avg")[f"{PATH}.b"]

    one = moment()
    torch.testing.assert_close(moment(lora_alpha=64.0), 2 * one)
    torch.testing.assert_close(moment(peft_method="rslora"), 4 * one)
    assert not torch.allclose(moment(lora_dropout=0.5), one)


@pytest.mark.covers("MOD-38: LoRA+")
@shows("lora_plus_ratio")
def faster(runs: Runs) -> None:
    base = runs.train(steps=1)
    leaves = {
        "init_from": str(base.folder),
        "use_peft": True,
        "peft_method": "lora_plus",
        "weight_decay": 0.0,
        "steps": 1,
    }
    # The first step of AdamW is the learning rate, whatever the gradient.
    for ratio in (2.0, 5.0):
        found = held(runs.train(lora_plus_ratio=ratio, **leaves))
        b = found[f"{PATH}.b"].abs().median().item()
        assert abs(b - ratio * 3e-3) < 1e-4 * ratio


@shows("peft_base")
def moved(runs: Runs) -> None:
    base = runs.train(steps=1)
    run = runs.train(init_from=str(base.folder), use_peft=True, steps=1)
    place = runs.folder / "moved"
    shutil.move(base.folder, place)
    runs.train(resume=str(run.folder), run_dir=None, peft_base=str(place), steps=2)
    assert len(run.rows) == 2
