"""Adapters beside a frozen base."""

from __future__ import annotations

from lumina.features.feature import Exclusion, Feature
from lumina.features.table import register
from lumina.features.trial import FROM_BASE, Trial

register(
    Feature(
        name="adapters",
        option="use_peft",
        summary="small tensors train beside the frozen matrices of a base",
        without="no --use-peft",
        change_cost="restart",
        requested=lambda c: c.adapters.use_peft,
        active=lambda p: bool(p.spec.adapters),
        memory=lambda spec, layout: layout.beside_the_base(spec),
        trial=Trial(
            {"use_peft": True, "lora_dropout": 0.0}, beside=FROM_BASE, keeps=False
        ),
    )
)

_WHY = "the importance of a rank is counted over whole matrices"

register(
    Feature(
        name="adalora",
        option="peft_method",
        summary="ranks of adapters go where they matter",
        without="--peft-method lora",
        change_cost="restart",
        requested=lambda c: c.adapters.use_peft and c.adapters.peft_method == "adalora",
        active=lambda p: any(one.method == "adalora" for one in p.spec.adapters),
        excludes=(
            Exclusion("fsdp2", _WHY),
            Exclusion("zero1", _WHY),
            Exclusion("zero2", _WHY),
            Exclusion(
                "optimizer_in_backward", "gradients are gone before they are read"
            ),
        ),
        trial=Trial(
            {"peft_method": "adalora"},
            beside=FROM_BASE | {"use_peft": True, "lora_dropout": 0.0},
            keeps=False,
        ),
    )
)
