"""Gradient accumulation is the large batch, for every loss there is: one table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from lumina.assemble.assemble import assemble
from lumina.batch import IGNORE
from lumina.model.spec import HrmSpec, ModelSpec, ModSpec, MorSpec
from lumina.plan.plan import Plan
from lumina.train.step import SCALARS, train_step
from programs import conversations, stream_of, tiny_plan


@pytest.fixture(scope="module")
def stream(tmp_path_factory: Any, lumina_cache: Any) -> Any:
    return stream_of(conversations(tmp_path_factory.mktemp("chats")))


def routed(**changes: Any) -> ModelSpec:
    spec = tiny_plan(moe=True).spec
    assert spec.moe is not None
    return replace(spec, moe=replace(spec.moe, **changes))


def dense(**changes: Any) -> ModelSpec:
    return replace(tiny_plan().spec, **changes)


LOSSES: dict[str, dict[str, Any]] = {
    "cross entropy": {},
    "label smoothing": {"label_smoothing": 0.2},
    "z-loss": {"spec": routed(balance_weight=0.0, z_loss_weight=0.5)},
    "balance of experts": {"spec": routed(balance_weight=0.5, z_loss_weight=0.0)},
    "balance by bias": {"spec": routed(bias_update_rate=0.01, score="sigmoid")},
    "shared experts": {"spec": routed(shared_experts=1), "label_smoothing": 0.1},
    "predictor of depths": {
        "spec": dense(mod=ModSpec(layers=(1,), predictor_weight=0.5))
    },
    "router of recursions": {
        "spec": dense(num_layers=3, mor=MorSpec(recursions=2, router_loss_weight=0.5))
    },
    "halting of a reasoner": {
        "spec": dense(
            hrm=HrmSpec(
                h_layers=1,
                l_layers=1,
                h_cycles=1,
                l_cycles=1,
                halt_max_steps=2,
                halt_exploration=0.0,
                loss="softmax",
                mode="language_model",
            )
        )
    },
    "weighted tokens": {},
    "weighted tokens, smoothed": {"label_smoothing": 0.2},
}
"""What is minimised -> the changes of the plan that make it so."""

QUICK = ("shared experts", "weighted tokens, smoothed")


def gradients(plan: Plan, stream: Any, weigh: bool) -> tuple[torch.Tensor, Any]:
    batches = stream.step(stream.start, micro_batch_size=plan.micro_batch_size)
    if weigh:
        total, parts = 0.0, []
        for batch in batches.micro_batches:
            weights = 0.25 + (batch.labels % 5).float()
            total += float((weights * (batch.labels != IGNORE)).sum())
            parts.append(replace(batch, loss_weights=weights))
        batches = replace(batches, micro_batches=parts, loss_weight=total)
    program = assemble(plan)
    metrics = train_step(program, batches, 0)
    assert metrics[SCALARS.index("skipped")] == 0
    share = 1 - plan.beta1
    return metrics, {
        s.name: s.state["exp_avg"] / share for s in program.optimizer.slots
    }


@pytest.mark.covers("TRN-19")
@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(name, marks=[] if name in QUICK else [pytest.mark.thorough])
        for name in LOSSES
    ],
)
def test_accumulated_gradients_are_those_of_the_large_batch(
    stream: Any, loss: str
) -> None:
    weigh = loss.startswith("weighted")
    whole, wanted = gradients(tiny_plan(**LOSSES[loss]), stream, weigh)
    for size in (4, 1):
        plan = tiny_plan(**LOSSES[loss], micro_batch_size=size)
        metrics, found = gradients(plan, stream, weigh)
        torch.testing.assert_close(metrics, whole, rtol=1e-5, atol=1e-5)
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            scale = gradient.abs().max().item()
            torch.testing.assert_close(
                found[name], gradient, rtol=1e-4, atol=1e-5 * scale, msg=name
            )
