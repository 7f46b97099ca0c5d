"""The types that a run computes in, as far as hardware must have them."""

from __future__ import annotations

from typing import Any

from lumina.features.feature import Choice, Exclusion, Feature, Machine
from lumina.features.needs import capability
from lumina.features.precisions import PRECISIONS, asked_precision
from lumina.features.table import register
from lumina.features.trial import BF16, Tolerance, Trial


def _asks(feature: str, config: object) -> bool:
    """Whether a Config names a precision that needs the feature."""
    asked = asked_precision(config)
    return asked != "auto" and PRECISIONS[asked].feature == feature


def _refuses(feature: str, config: object) -> bool:
    """Whether a Config names a precision that does without the feature."""
    asked = asked_precision(config)
    return asked != "auto" and PRECISIONS[asked].feature != feature


register(
    Feature(
        name="bf16",
        option="precision",
        plan_field="compute_dtype",
        summary="compute in bfloat16 over float32 master weights",
        without="--precision auto",
        change_cost="reassemble",
        requested=lambda c: _asks("bf16", c),
        refused=lambda c: _refuses("bf16", c),
        active=lambda p: p.compute_dtype == "bfloat16",
        needs=capability(8, 0, also=("cpu",)),
        fallback=lambda p, m: p.replace(compute_dtype="float32"),
        trial=Trial(
            {"precision": "mixed_bf16"},
            tolerance=BF16,
        ),
    )
)
register(
    Feature(
        name="fp16",
        option="precision",
        plan_field="compute_dtype",
        summary="compute in float16 with a loss scaler over float32 master weights",
        without="--precision auto",
        change_cost="reassemble",
        requested=lambda c: _asks("fp16", c),
        refused=lambda c: _refuses("fp16", c),
        active=lambda p: p.compute_dtype == "float16",
        needs=capability(5, 3, also=("mps",)),
        fallback=lambda p, m: p.replace(compute_dtype="float32"),
        trial=Trial(
            {"precision": "mixed_fp16"},
            tolerance=Tolerance(first_loss=2e-3, gradients=0.02, learned=0.03),
        ),
    )
)
register(
    Feature(
        name="tf32",
        option="precision",
        plan_field="tf32",
        summary="round float32 products to TF32",
        without="--precision fp32",
        change_cost="restart",
        requested=lambda c: _asks("tf32", c),
        refused=lambda c: asked_precision(c) not in ("auto", "tf32"),
        active=lambda p: p.tf32,
        needs=capability(8, 0),
        fallback=lambda p, m: p.replace(tf32=False),
        trial=Trial(
            {"precision": "tf32"},
            tolerance=Tolerance(first_loss=2e-3, gradients=0.02, learned=0.02),
        ),
    )
)
register(
    Feature(
        name="fp8",
        option="precision",
        plan_field="fp8",
        summary="multiply the matrices of the blocks' linear layers in float8",
        without="--precision mixed_bf16",
        change_cost="reassemble",
        requested=lambda c: _asks("fp8", c),
        refused=lambda c: c.kernels.experimental_fp8 is False or _refuses("fp8", c),
        active=lambda p: bool(p.fp8),
        needs=capability(9, 0),
        fallback=lambda p, m: p.replace(fp8=""),
        build="lumina.model.fp8:use_fp8",
        claim="fp8",
        faster=True,
        trial=Trial(
            {"precision": "mixed_fp8"},
            tolerance=Tolerance(first_loss=0.02, gradients=0.2, learned=0.05),
        ),
    )
)


def _no_experts(plan: Any, machine: Machine) -> Choice:
    """Off: what it costs in loss and gives in speed is not measured yet."""
    return Choice(False, "not measured to be worth it; --fp8-experts has it")


register(
    Feature(
        name="fp8_experts",
        option="fp8_experts",
        summary="dropless routed experts multiply float8, with a scale for each row",
        without="--no-fp8-experts",
        requested=lambda c: c.kernels.fp8_experts is True,
        refused=lambda c: c.kernels.fp8_experts is False,
        active=lambda p: p.fp8_experts and bool(p.fp8),
        needs=capability(9, 0),
        automatic=_no_experts,
        switch_on=lambda p: p.replace(fp8_experts=True),
        fallback=lambda p, m: p.replace(fp8_experts=False),
        excludes=(
            Exclusion("moe_capacity", "experts with places have no grouped product"),
            Exclusion("tiled_feedforward", "tiles multiply their experts themselves"),
        ),
        build="lumina.model.fp8:use_fp8_experts",
        claim="fp8",
        faster=True,
        trial=Trial(
            {"fp8_experts": True},
            beside={
                "precision": "mixed_fp8",
                "use_moe": True,
                "num_experts": 4,
                "moe_intermediate_size": 32,
            },
            tolerance=Tolerance(first_loss=0.02, gradients=0.2, learned=0.05),
        ),
    )
)
