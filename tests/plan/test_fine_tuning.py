"""Settings of a fine-tuning: by the size of the model, where nobody chose them."""

from __future__ import annotations

from pathlib import Path

import pytest

from lumina.config import Config, Source
from lumina.plan.fine_tuning import fine_tuning, rate_for
from lumina.plan.shape import resolve_spec
from machines import plan_for


def tuned(config: Config, rows: int | None = 100_000, ranks: int = 1) -> Config:
    spec = resolve_spec(config)
    return fine_tuning(config, spec, rows_per_epoch=rows, data_ranks=ranks)


def debug(**flags: object) -> Config:
    return Config.resolve(preset="debug", flags={"init_from": "runs/base", **flags})


@pytest.mark.parametrize(
    ("parameters", "rate"),
    [(117e6, 6.25e-5), (7e9, 2e-5), (70e9, 1e-5), (1, 3e-4)],
)
def test_the_rate_is_that_of_models_of_that_size(
    parameters: float, rate: float
) -> None:
    assert rate_for(int(parameters)) == pytest.approx(rate, rel=0.1)


def test_a_fine_tuning_has_its_own_recipe_not_the_presets() -> None:
    config = tuned(debug())
    plan = plan_for(config, rows_per_epoch=100_000)
    assert plan.learning_rate == rate_for(plan.active_parameters) < 3e-4
    assert plan.lr_scheduler == "cosine" and plan.min_lr == 0.0
    assert plan.epochs == 3.0
    assert plan.warmup_steps == round(0.03 * plan.steps)
    assert plan.global_batch_size * plan.spec.seq_length == 2**16
    assert "Tulu 2" in plan.reasons["learning_rate"]
    assert "fine-tuning" in plan.reasons["global_batch_size"]


def test_what_somebody_chose_stands() -> None:
    chosen = {
        "learning_rate": "1e-3",
        "steps": "50",
        "global_batch_size": "6",
        "warmup_steps": "4",
        "lr_scheduler": "linear",
    }
    plan = plan_for(tuned(debug(**chosen)), rows_per_epoch=1000)
    assert (plan.learning_rate, plan.steps, plan.epochs) == (1e-3, 50, None)
    assert (plan.global_batch_size, plan.warmup_steps) == (6, 4)
    assert plan.lr_scheduler == "linear" and plan.min_lr == pytest.approx(1e-4)


def test_small_data_still_makes_a_hundred_steps() -> None:
    assert plan_for(tuned(debug(), 300), rows_per_epoch=300).steps >= 100
    few = tuned(debug(steps="5"), 40)
    assert few.train.global_batch_size <= 40
    assert tuned(debug(), 300, ranks=3).train.global_batch_size % 3 == 0
    assert tuned(debug(), 3).train.global_batch_size == 1


def test_decided_settings_and_their_reasons_survive_a_saved_file(
    tmp_path: Path,
) -> None:
    config = tuned(debug())
    config.save(tmp_path / "config.yaml")
    again = Config.load(tmp_path / "config.yaml")
    assert again == config
    for leaf in ("learning_rate", "global_batch_size", "epochs", "warmup_ratio"):
        source = again.provenance[leaf]
        assert source.kind == "decided", leaf
        assert source.detail == config.provenance[leaf].detail
    # Laid over with a wish, it is a wish.
    wish = again.override({"learning_rate": 1e-5}, Source("flag"))
    assert wish.provenance["learning_rate"].kind == "flag"
