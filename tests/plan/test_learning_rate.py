"""The peak learning rate of routed models."""

from __future__ import annotations

import pytest

from lumina.config import Config
from lumina.config.presets import PRESETS
from lumina.plan.learning_rate import learning_rate
from lumina.plan.shape import resolve_spec


def peak(config: Config) -> tuple[float, str]:
    return learning_rate(config, resolve_spec(config, 300))


@pytest.mark.parametrize(
    ("experts", "top_k", "factor"), [(4, 2, 0.5**0.5), (4, 4, 1.0), (64, 8, 0.5)]
)
@pytest.mark.covers("MOD-23")
def test_a_rate_nobody_chose_for_experts_is_lowered(
    experts: int, top_k: int, factor: float
) -> None:
    routed = {"use_moe": True, "num_experts": experts, "moe_top_k": top_k}
    rate, why = peak(Config(**routed))  # type: ignore[arg-type]
    assert rate == pytest.approx(3e-4 * factor) and f"{top_k} of {experts}" in why
    kept = Config(**routed, auto_adjust_lr=False)  # type: ignore[arg-type]
    assert peak(kept)[0] == 3e-4
    dense = PRESETS["debug_200m"].values["learning_rate"]
    flags = {name.replace("_", "-"): value for name, value in routed.items()}
    config = Config.resolve(preset="debug_200m", flags=flags)
    rate, why = peak(config)
    assert rate == pytest.approx(float(str(dense)) * factor) and "debug_200m" in why


def test_other_rates_stand() -> None:
    assert peak(Config())[0] == 3e-4
    assert peak(Config(use_moe=True, learning_rate=3e-4))[0] == 3e-4  # type: ignore[arg-type]
    assert peak(Config(preset="b7"))[0] == PRESETS["b7"].values["learning_rate"]
    flags = {"learning-rate": 1e-3}
    assert peak(Config.resolve(preset="debug_200m", flags=flags))[0] == 1e-3
