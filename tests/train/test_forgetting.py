"""What counts as lost in evaluations: not the noise of an accuracy by itself."""

from __future__ import annotations

from lumina.train.health.checks.held_out import Forgetting
from programs import tiny_plan


def test_a_lower_accuracy_counts_only_where_the_loss_is_higher_too() -> None:
    check = Forgetting(tiny_plan())

    def judged(accuracy: float, loss: float | None) -> bool:
        metrics = {"eval_accuracy": accuracy, "eval_loss": loss}
        return check.see_evaluation(1, metrics) is not None

    assert not judged(0.04, 5.0)
    assert not judged(0.02, 4.9), "the loss is the lowest so far"
    assert not judged(0.02, 4.99), "hardly above it"
    assert judged(0.02, 5.01)
    assert judged(0.02, None), "the loss is not known"
