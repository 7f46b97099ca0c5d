"""Options of training: steps, rates, gradients, moments, weights."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from lumina.data.stream import StepBatches
from lumina.train.rules import expert_capacity
from option_effects import shows
from tiny_runs import EXPERTS, Program, Run, Runs, same, seen

RATE = {"lr_scheduler": "linear", "learning_rate": 1e-2, "steps": 10}


def rates(runs: Runs, **leaves: object) -> list[float]:
    return runs.train(**(RATE | leaves)).column("learning_rate")


@shows("init_from")
def initial_weights(runs: Runs) -> None:
    source = runs.train(steps=3)
    taken = runs.train(init_from=str(source.folder), learning_rate=1e-8, steps=1)
    fresh = runs.train(init_from=None, learning_rate=1e-8, steps=1)
    wanted = source.tensor("embedding.weight")
    assert torch.allclose(taken.tensor("embedding.weight"), wanted, atol=1e-6)
    assert not torch.allclose(fresh.tensor("embedding.weight"), wanted, atol=1e-3)


@pytest.mark.covers("TRN-08: optimizer state only for parameters that train")
@shows("freeze")
def frozen(runs: Runs) -> None:
    start = runs.train(steps=1, learning_rate=1e-12, weight_decay=0.0)
    free, held = runs.both("freeze", (), ("backbone.embedding.*",), steps=3)
    before = start.tensor("embedding.weight")
    assert torch.allclose(held.tensor("embedding.weight"), before, atol=1e-9)
    assert not torch.allclose(free.tensor("embedding.weight"), before, atol=1e-4)
    assert "backbone.embedding.weight" not in held.slot("exp_avg")
    head = "objective.head.weight" if "objective.head.weight" in held.tensors else None
    moved = head or "backbone.norm.weight"
    assert not same(held.tensors[moved], start.tensors[moved])


@pytest.mark.covers("TRN-02: --steps", "DAT-29: --steps limit")
@shows("steps")
def number_of_steps(runs: Runs) -> None:
    two, four = runs.both("steps", 2, 4)
    assert (len(two.rows), len(four.rows)) == (2, 4)


@pytest.mark.covers("TRN-01: --epochs 3", "TRN-28: multi-epoch loops")
@shows("epochs")
def passes(runs: Runs) -> None:
    one, two = runs.both("epochs", 1.0, 2.0, steps=None)
    assert one.rows[-1]["epoch"] == 1 and two.rows[-1]["epoch"] == 2
    assert two.result.steps == pytest.approx(2 * one.result.steps, abs=1)


@pytest.mark.covers(
    "TRN-01: --batch-size",
    "TRN-01: --grad-accum",
    "TRN-02: --gradient-accumulation-steps",
    "TRN-19",
)
@shows("batch_size", "grad_accum", "global_batch_size")
def batches(runs: Runs) -> None:
    """(forwards in a step, sequences of each), and the rows used."""

    def shape(program: Program, step: StepBatches) -> tuple[int, int]:
        return len(step.micro_batches), len(step.micro_batches[0].input_ids)

    def of(**leaves: object) -> tuple[tuple[int, int], Run]:
        found: list[tuple[int, int]] = []
        run = runs.train(seen(shape, found), steps=1, **leaves)
        return found[0], run

    forwards, whole = of(batch_size=4, global_batch_size=4)
    assert forwards == (1, 4) and whole.cursor["row"] == 4
    forwards, split = of(batch_size=2, global_batch_size=4)
    assert forwards == (2, 2) and split.cursor["row"] == 4
    assert split.first_loss == pytest.approx(whole.first_loss, rel=1e-5)
    forwards, large = of(batch_size=2, global_batch_size=8)
    assert forwards == (4, 2) and large.cursor["row"] == 8
    forwards, more = of(batch_size=2, grad_accum=3, global_batch_size=None)
    assert forwards == (3, 2) and more.cursor["row"] == 6


@pytest.mark.covers("TRN-01: --learning-rate", "TRN-02: --lr", "MON-01: learning_rate")
@shows("learning_rate")
def peak_rate(runs: Runs) -> None:
    small, large = runs.both("learning_rate", 1e-3, 2e-3, steps=1, weight_decay=0.0)
    start = runs.train(steps=1, learning_rate=1e-12, weight_decay=0.0)
    before = start.tensor("backbone.norm.weight")
    steps = [
        (run.tensor("backbone.norm.weight") - before).abs().mean().item()
        for run in (small, large)
    ]
    assert steps[1] == pytest.approx(2 * steps[0], rel=0.01)
    assert small.rows[0]["learning_rate"] == 1e-3


@pytest.mark.covers("TRN-03: --min-lr")
@shows("min_lr")
def final_rate(runs: Runs) -> None:
    low, high = rates(runs, min_lr=0.0), rates(runs, min_lr=5e-3)
    assert low[0] == pytest.approx(9e-3) and low[-1] == 0
    assert high[0] == pytest.approx(9.5e-3) and high[-1] == 5e-3


@pytest.mark.covers("TRN-03: cosine", "TRN-03: linear", "TRN-03: none")
@shows("lr_scheduler")
def schedule(runs: Runs) -> None:
    names = ("constant", "linear", "cosine", "wsd", "polynomial", "inverse_sqrt")
    found = [tuple(rates(runs, lr_scheduler=name)) for name in (*names, "onecycle")]
    assert len(set(found)) == 7
    assert set(found[0]) == {1e-2}
    straight, *others = (
        len({round(a - b, 9) for a, b in itertools.pairwise(line)})
        for line in found[1:]
    )
    assert straight == 1 and all(steps > 1 for steps in others)


@pytest.mark.covers("TRN-01: --warmup-ratio", "TRN-03: --warmup-steps override")
@shows("warmup_steps", "warmup_ratio")
def warm_up(runs: Runs) -> None:
    flat = {"lr_scheduler": "constant"}
    assert rates(runs, warmup_steps=0, **flat) == [1e-2] * 10
    by_steps = rates(runs, warmup_steps=4, **flat)
    rising = pytest.approx([2.5e-3, 5e-3, 7.5e-3, 1e-2])
    assert by_steps[:4] == rising and by_steps[4:] == [1e-2] * 6
    by_ratio = rates(runs, warmup_ratio=0.4, warmup_steps=None, **flat)
    assert by_ratio == by_steps
    assert rates(runs, warmup_ratio=0.0, warmup_steps=None, **flat)[0] == 1e-2


@pytest.mark.covers("TRN-04: polynomial decay", "TRN-03: onecycle")
@shows("lr_scheduler_options")
def schedule_options(runs: Runs) -> None:
    power = [
        rates(runs, lr_scheduler="polynomial", min_lr=0.0, lr_scheduler_options=(text,))
        for text in ("power=1.0", "power=3.0")
    ]
    assert power[0][4] == pytest.approx(1e-2 * 0.5)
    assert power[1][4] == pytest.approx(1e-2 * 0.5**3)


@pytest.mark.covers("TRN-15")
@shows("label_smoothing")
def smoothed(runs: Runs) -> None:
    """The head learns another distribution; the reported loss stays plain."""
    plain, soft = runs.both("label_smoothing", 0.0, 0.3, steps=1)
    assert soft.rows[0]["loss"] == plain.rows[0]["loss"]
    assert soft.rows[0]["grad_norm"] != plain.rows[0]["grad_norm"]
    runs.refused("E002", label_smoothing=0.1, tasks=("a=a.txt",), tie_embeddings=False)


@shows("decay_steps")
def decay_in_steps(runs: Runs) -> None:
    at_peak = [
        rates(runs, lr_scheduler="wsd", decay_steps=steps).count(1e-2)
        for steps in (3, 7)
    ]
    assert at_peak == [7, 3]


@shows("decay_ratio")
def decay_share(runs: Runs) -> None:
    at_peak = [
        rates(runs, lr_scheduler="wsd", decay_ratio=ratio).count(1e-2)
        for ratio in (0.2, 0.8)
    ]
    assert at_peak[0] == at_peak[1] + 6


@pytest.mark.covers("TRN-01: --weight-decay")
@shows("weight_decay")
def decay(runs: Runs) -> None:
    """After one step the weights differ by rate x decay x themselves; norms do not."""
    plain, decayed = runs.both("weight_decay", 0.0, 1.0, steps=1, learning_rate=0.1)
    start = runs.train(steps=1, learning_rate=1e-12, weight_decay=0.0)
    name = "embedding.weight"
    difference = plain.tensor(name) - decayed.tensor(name)
    assert torch.allclose(difference, 0.1 * start.tensor(name), atol=1e-6)
    norm = "backbone.norm.weight"
    assert same(plain.tensor(norm), decayed.tensor(norm))


@pytest.mark.covers("TRN-06: --beta1, --beta2")
@shows("beta1", "beta2")
def moments(runs: Runs) -> None:
    """After one step a moment is (1 - beta) times the gradient, or its square."""
    name = "backbone.norm.weight"
    for leaf, slot in (("beta1", "exp_avg"), ("beta2", "exp_avg_sq")):
        slow, fast = runs.both(leaf, 0.9, 0.5, steps=1)
        ratio = fast.slot(slot)[name] / slow.slot(slot)[name]
        assert torch.allclose(ratio, torch.tensor(5.0), rtol=1e-3)


@pytest.mark.covers("TRN-06: --eps")
@shows("eps")
def epsilon(runs: Runs) -> None:
    """A large epsilon makes Adam's first step far smaller than the rate."""
    before = torch.ones(32)
    small, large = runs.both("eps", 1e-12, 10.0, steps=1, learning_rate=0.01)
    moved = [
        (run.tensor("backbone.norm.weight") - before).abs().max().item()
        for run in (small, large)
    ]
    assert moved[0] == pytest.approx(0.01, rel=0.01) and moved[1] < 1e-3


@pytest.mark.covers("TRN-01: --max-grad-norm")
@shows("max_grad_norm")
def clipping(runs: Runs) -> None:
    free, clipped = runs.both("max_grad_norm", 0.0, 0.125, steps=1)
    norm = free.rows[0]["grad_norm"]
    assert clipped.rows[0]["grad_norm"] == norm > 0.125
    name = "backbone.norm.weight"
    expected = free.slot("exp_avg")[name] * 0.125 / norm
    assert torch.allclose(clipped.slot("exp_avg")[name], expected, rtol=1e-3)


@pytest.mark.covers(
    "TRN-10: exponential moving average of weights", "TRN-10: used for evaluation"
)
@shows("ema_decay")
def averaged(runs: Runs) -> None:
    off, on = runs.both("ema_decay", 0.0, 0.9, steps=5, learning_rate=0.03)
    assert not off.slot("ema") and on.slot("ema")
    assert off.column("loss") == on.column("loss")
    assert off.column("eval_loss") != on.column("eval_loss")


@pytest.mark.covers("TRN-01: --seed", "TRN-31: deterministic seeds")
@shows("seed")
def seeded(runs: Runs) -> None:
    one, two = runs.both("seed", 1, 2)
    again = runs.train(seed=1)
    assert one.column("loss") == again.column("loss") != two.column("loss")


@pytest.mark.covers("EVL-01: --eval-every-n-batches")
@shows("eval_every_n_batches")
def evaluations(runs: Runs) -> None:
    def steps(run: Run) -> list[int]:
        return [row["step"] for row in run.rows if "eval_loss" in row]

    ends, often = runs.both("eval_every_n_batches", 0, 2, steps=5)
    assert steps(ends) == [5] and steps(often) == [2, 4, 5]


@pytest.mark.covers("TRN-02: --eval-batches")
@shows("eval_batches")
def evaluation_size(runs: Runs) -> None:
    one, three = runs.both("eval_batches", 1, 3)
    assert one.column("loss") == three.column("loss")
    assert one.column("eval_loss") != three.column("eval_loss")


@pytest.mark.covers("TRN-20: --early-stopping-patience")
@shows("pin")
def pinned(runs: Runs) -> None:
    """A rule that takes places away every two steps, and may not."""
    for name, value in (("WINDOW", 2), ("FEW", 2.0), ("TOO_MANY", 3.0)):
        runs.monkeypatch.setattr(expert_capacity, name, value)
    adaptive = {"overflow": "adaptive", "steps": 8, **EXPERTS}
    names = ("learning_rate",), ("capacity_factor", "learning_rate")
    free, held = (runs.train(pin=pin, **adaptive) for pin in names)

    def told(run: Run) -> list[str]:
        found = [e["data"] for e in run.events if e["kind"] == "control"]
        return [data["outcome"] for data in found]

    assert told(free)[:2] == ["applied"] * 2
    assert told(held) == ["refused: E002 capacity_factor is pinned"]
    fewer, places = (run.column("moe.overflow_fraction") for run in (free, held))
    assert fewer[:3] == places[:3] and max(fewer[-1]) > max(places[-1])
    runs.refused("E004", pin=("learning_rat",))


@shows("early_stopping_patience")
def patience(runs: Runs) -> None:
    """A rate of 1 makes every evaluation worse than the first."""
    wild = {"learning_rate": 1.0, "steps": 8, "eval_every_n_batches": 1}
    endless, short = runs.both("early_stopping_patience", 0, 2, **wild)
    losses = endless.column("eval_loss")
    assert endless.result.steps == 8 and math.isfinite(losses[0])
    best, worse, expected = math.inf, 0, 8
    for step, loss in enumerate(losses, 1):
        best, worse = (loss, 0) if loss < best else (best, worse + 1)
        if worse == 2:
            expected = step
            break
    assert expected < 8 and short.result.steps == expected
    assert short.result.exit_code == 0 and "2" in short.result.reason


@pytest.mark.covers(
    "MOD-26: expert-only training with --expert-id NAME (base frozen)",
    "MOD-26: --default-goal",
)
@shows("expert_id", "expert_registry", "default_goal")
def named_expert(runs: Runs) -> None:
    """The base keeps still, the expert lands in the registry, the goal in routing."""
    base = runs.train(use_moe=True, num_experts=4)
    folder = runs.folder / "registry"

    def train(**leaves: object) -> Run:
        start = {"init_from": str(base.folder), "expert_registry": str(folder)}
        return runs.train(**(start | leaves))

    free, alone = train(), train(expert_id="farm")
    router = "blocks.0.feedforward.router.weight"
    assert not same(free.tensor(router), base.tensor(router))
    assert same(alone.tensor(router)[:4], base.tensor(router))
    assert (folder / "farm" / "expert.safetensors").is_file()
    other = folder.with_name("other")
    leaning = train(
        expert_id="farm", default_goal="tell of hens", expert_registry=str(other)
    )
    assert (other / "farm" / "expert.safetensors").is_file()
    shares = [run.rows[0]["moe.load"][0][4] for run in (alone, leaning)]
    assert shares[1] > shares[0] + 0.05


@pytest.mark.covers("TRN-20: smart variant with minimum improvement")
@shows("early_stopping_min_improvement")
def least_improvement(runs: Runs) -> None:
    """Small improvements keep the best model and do not clear the patience."""
    base = {"steps": 8, "eval_every_n_batches": 1, "early_stopping_patience": 3}
    base |= {"learning_rate": 1e-5}
    any_, large = runs.both("early_stopping_min_improvement", 0.0, 0.5, **base)
    losses = any_.column("eval_loss")
    assert losses == sorted(losses, reverse=True) and any_.result.steps == 8
    assert large.result.steps == 4 and large.column("eval_loss") == losses[:4]
    assert large.result.best_eval_loss == losses[3]
