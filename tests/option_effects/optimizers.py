"""Options of optimizers: which one trains what, and its own options."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from option_effects import shows
from tiny_runs import Run, Runs, same

TOYS = str(Path(__file__).parents[1] / "seams" / "toy_optimizers.py")


@shows("optimizer_groups")
def groups(runs: Runs) -> None:
    """The feed-forward's moments give way to a velocity; the rest is as it was."""
    whole, divided = runs.both(
        "optimizer_groups", (), ("*.feedforward.*=toy_momentum",), plugins=(TOYS,)
    )
    name = "backbone.blocks.1.feedforward.gate.weight"
    assert name in whole.slot("exp_avg") and not whole.slot("velocity")
    assert name in divided.slot("velocity") and name not in divided.slot("exp_avg")
    assert "backbone.norm.weight" in divided.slot("exp_avg")
    assert whole.rows[-1]["loss"] != divided.rows[-1]["loss"]


@shows("optimizer_options")
def options(runs: Runs) -> None:
    """Without momentum the velocity is the last gradient alone."""
    one, two = runs.both(
        "optimizer_options",
        (),
        ("momentum=0.0",),
        optimizer="toy_momentum",
        plugins=(TOYS,),
    )
    name = "backbone.norm.weight"
    assert not one.slot("velocity")[name].equal(two.slot("velocity")[name])
    assert one.rows[1]["loss"] == two.rows[1]["loss"]
    assert one.rows[2]["loss"] != two.rows[2]["loss"]


def _equal(one: Run, two: Run, *, but: str = "nothing") -> bool:
    """Whether all tensors of two runs are equal, but those whose name has `but`."""
    first, second = one.tensors, two.tensors
    return all(same(first[n], second[n]) == (but not in n) for n in first)


@shows("group_learning_rates")
def rates(runs: Runs) -> None:
    """Half the rate everywhere is half the run's; of some, others stay as they are."""
    whole, halved = runs.both(
        "group_learning_rates", (), ("*=0.5",), learning_rate=2e-3, steps=2
    )
    assert not _equal(whole, halved)
    assert _equal(runs.train(learning_rate=1e-3, steps=2), halved)
    one, two = runs.both(
        "group_learning_rates", (), ("role:embedding=0.1", "*=1"), steps=1
    )
    assert _equal(one, two, but="embed")
    assert "0.1 times the learning rate for" in (two.folder / "plan.json").read_text()
    assert "rate times role:embedding=0.1" in " ".join(two.printed.split())


@shows("group_weight_decays")
def decays(runs: Runs) -> None:
    """No decay everywhere is a run without it; of some, others stay as they are."""
    _, without = runs.both(
        "group_weight_decays", (), ("*=0",), weight_decay=0.5, steps=2
    )
    assert _equal(runs.train(weight_decay=0.0, steps=2), without)
    one, two = runs.both(
        "group_weight_decays", (), ("role:embedding=2",), weight_decay=0.5, steps=1
    )
    assert _equal(one, two, but="embed")


def _averages(run: Run) -> list[Tensor]:
    return list(run.slot("ema").values())


@pytest.mark.covers("TRN-11")
@shows("swa_start")
def mean_of_the_last_steps(runs: Runs) -> None:
    """Training is as it was; evaluation uses the mean, here of the last three steps."""
    off, on = runs.both("swa_start", 0.0, 0.5, steps=5, learning_rate=0.03)
    assert off.column("loss") == on.column("loss")
    assert off.column("eval_loss") != on.column("eval_loss")
    shorter = [
        runs.train(steps=n, learning_rate=0.03, save_every_n_batches=1).tensors
        for n in (3, 4, 5)
    ]
    for name, average in on.slot("ema").items():
        mean = sum(tensors[name] for tensors in shorter) / 3
        torch.testing.assert_close(average, mean)
    assert "mean of the weights after 50%" in " ".join(on.printed.split())
    runs.refused("E002", swa_start=0.5, ema_decay=0.9)


@pytest.mark.covers("TRN-09")
@shows("lookahead_steps")
def slow_weights(runs: Runs) -> None:
    """After two steps the weights are half-way back to where they began."""
    off, on = runs.both("lookahead_steps", 0, 2, steps=2)
    assert not _equal(off, on) and not off.slot("ema")
    assert all(map(torch.equal, _averages(on), (on.tensors[n] for n in on.slot("ema"))))
    runs.refused("E002", lookahead_steps=2, swa_start=0.5)


@shows("lookahead_share")
def as_far_as_the_weights(runs: Runs) -> None:
    """Slow weights that go all the way to the others change nothing."""
    half, whole = runs.both("lookahead_share", 0.5, 1.0, steps=3, lookahead_steps=2)
    plain = runs.train(steps=3)
    assert _equal(plain, whole) and not _equal(half, whole)


@pytest.mark.covers("TRN-12", "TRN-13", "TRN-14")
@shows("gradient_steps")
def steps_on_gradients(runs: Runs) -> None:
    """Each one changes the run, and with SGD what a matrix becomes in one step."""
    plain = runs.train(optimizer="sgd", max_grad_norm=0.0, steps=1)
    for name in ("agc", "centralise", "noise"):
        run = runs.train(
            optimizer="sgd", max_grad_norm=0.0, steps=1, gradient_steps=(name,)
        )
        assert run.first_loss == plain.first_loss and not _equal(plain, run), name
        assert f"gradient steps {name}" in " ".join(run.printed.split())
    # Nothing stands out among the first norms.
    none, clipped = runs.both("gradient_steps", (), ("zclip",), steps=6)
    assert _equal(none, clipped)
    message = runs.refused("E005", gradient_steps=("zclop",))
    assert "zclop" in message
    runs.refused("E005", gradient_steps=("agc", "agc"))


@shows("gradient_step_options")
def options_of_steps(runs: Runs) -> None:
    """A clip that is never reached changes nothing; out of range it is refused."""
    low, high = runs.both(
        "gradient_step_options",
        ("agc.clipping=0.001",),
        ("agc.clipping=1e6",),
        gradient_steps=("agc",),
    )
    assert not _equal(low, high) and _equal(runs.train(), high)
    for text in ("agc.clipping=0", "agc.clip=1", "noise.variance=1", "agc.clipping"):
        assert text in runs.refused(
            "E005", gradient_steps=("agc",), gradient_step_options=(text,)
        )


@shows("qk_clip")
def logits_held_at_a_threshold(runs: Runs) -> None:
    """Only where it is passed; together with what bounds them anyway it is refused."""
    high, low = runs.both("qk_clip", 1e6, 0.01, steps=2)
    assert high.first_loss == low.first_loss and not _equal(high, low)
    assert _equal(runs.train(steps=2), high)
    first, second = low.rows  # before and after the first clip
    assert first["largest_attention_logit"] > 1 and first["clipped_heads"] == 4
    assert second["largest_attention_logit"] < 0.02
    assert high.rows[0]["clipped_heads"] == 0
    assert "attention logits clipped at 0.01" in " ".join(low.printed.split())
    assert "qk_norm" in runs.refused("E002", qk_clip=100.0, qk_norm="rms")
