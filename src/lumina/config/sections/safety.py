"""Options of optimisations: whether they are proven, and watched in the run."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class SafetySection(Section):
    """What is asked of optimisations before and while they are used."""

    safe_optimizations: Literal["off", "watch", "prove", "background"] = Field(
        "off",
        description="watch: an optimisation that can be left out while a run trains "
        "is switched off where the run goes wrong just after it was switched on; "
        "prove: each is also tried in a process of its own before the first step, and "
        "left out, with a warning, where it is not proven; background: the run begins "
        "without those that are not proven here and switches each on once it is, tries "
        "them again with every checkpoint, and watches; off: nothing of this",
    )
    experimental_safety_window: int = Field(
        100,
        ge=1,
        description="steps without trouble after which an optimisation is stable, and "
        "within which three troubles switch it off",
    )
    experimental_loss_spike_threshold: float = Field(
        2.0,
        gt=0,
        description="a loss of more than this many times its moving average is trouble",
    )
    experimental_throughput_drop_threshold: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="nine steps with a median throughput below this share of what is "
        "usual are trouble",
    )
    experimental_skip_pretest: bool = Field(
        False,
        description="with --safe-optimizations prove, try nothing beforehand and only "
        "watch",
    )
