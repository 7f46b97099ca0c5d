"""The types that a run computes in; master weights stay float32 with all of them."""

from __future__ import annotations

from lumina.features.feature import Feature
from lumina.features.needs import capability
from lumina.features.table import register

register(
    Feature(
        name="bf16",
        option="precision",
        plan_field="compute_dtype",
        summary="compute in bfloat16 over float32 master weights",
        without="--precision auto",
        change_cost="restart",
        requested=lambda c: c.system.precision in ("bf16", "mixed_bf16"),
        refused=lambda c: c.system.precision in ("fp32", "tf32", "fp16", "mixed_fp16"),
        active=lambda p: p.compute_dtype == "bfloat16",
        needs=capability(8, 0, cpu_too=True),
        fallback=lambda p, m: p.replace(compute_dtype="float32"),
    )
)
register(
    Feature(
        name="fp16",
        option="precision",
        plan_field="compute_dtype",
        summary="compute in float16 with a loss scaler over float32 master weights",
        without="--precision auto",
        change_cost="restart",
        requested=lambda c: c.system.precision in ("fp16", "mixed_fp16"),
        refused=lambda c: c.system.precision in ("fp32", "tf32", "bf16", "mixed_bf16"),
        active=lambda p: p.compute_dtype == "float16",
        needs=capability(5, 3),
        fallback=lambda p, m: p.replace(compute_dtype="float32"),
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
        requested=lambda c: c.system.precision == "tf32",
        refused=lambda c: c.system.precision not in ("auto", "tf32"),
        active=lambda p: p.tf32,
        needs=capability(8, 0),
        fallback=lambda p, m: p.replace(tf32=False),
    )
)
