"""Options of routed layers."""

from __future__ import annotations

import io
import json

import pytest
import torch

from lumina.config import Config
from lumina.data.stream import StepBatches
from lumina.observe.console import Console
from lumina.train import Trainer
from option_effects import shows
from tiny_runs import EXPERTS, Program, Run, Runs, same, seen


def routers(run: Run) -> dict[str, torch.Tensor]:
    return {n: t for n, t in run.tensors.items() if n.endswith("router.weight")}


@pytest.mark.covers("MOD-15: use_moe / --use-moe/--no-moe")
@shows("use_moe")
def routed(runs: Runs) -> None:
    dense, sparse = runs.both("use_moe", False, True, num_experts=4)
    assert not routers(dense) and len(routers(sparse)) == 2
    assert "moe.load" in sparse.rows[0] and "moe.load" not in dense.rows[0]


@pytest.mark.covers("MOD-15: num_experts")
@shows("num_experts")
def experts(runs: Runs) -> None:
    for run, count in zip(
        runs.both("num_experts", 4, 6, **_without("num_experts")), (4, 6), strict=True
    ):
        assert all(len(router) == count for router in routers(run).values())
        assert len(run.rows[0]["moe.load"][0]) == count


@shows("router_init", "router_init_std")
def first_routers(runs: Runs) -> None:
    still = {"learning_rate": 1e-9, "steps": 1} | EXPERTS

    def rows(**leaves: object) -> torch.Tensor:
        run = runs.train(**still, **leaves)
        return next(iter(routers(run).values()))

    for spread in (0.2, 0.02):  # the first is init_std
        given = {} if spread == 0.2 else {"router_init_std": spread}
        square = rows(router_init="orthogonal", **given)
        angles = square @ square.T / (spread**2 * 32)
        torch.testing.assert_close(angles, torch.eye(4), rtol=0, atol=1e-4)
        normal = rows(router_init="normal", **given)
        assert normal.std().item() == pytest.approx(spread, rel=0.2)
        assert normal.norm(dim=1).std() > 1e-3 * spread


@pytest.mark.covers("MOD-15: moe_top_k / --num-experts-per-tok (default 2)")
@shows("moe_top_k")
def choices(runs: Runs) -> None:
    """With every expert chosen by every token the load is even; with one it is not."""
    one, all_four = runs.both("moe_top_k", 1, 4, **_without("moe_top_k"))
    assert all_four.rows[0]["moe.load"] == [[0.25] * 4] * 2
    assert one.rows[0]["moe.load"] != [[0.25] * 4] * 2


@pytest.mark.covers("MOD-16")
@shows("moe_pattern")
def pattern(runs: Runs) -> None:
    expected = {"all": "0123", "interleaved": "13", "sandwich": "12"}
    for name, layers in expected.items():
        run = runs.train(moe_pattern=name, num_layers=4, steps=1, **EXPERTS)
        assert {router.split(".")[2] for router in routers(run)} == set(layers)


@shows("moe_intermediate_size")
def expert_width(runs: Runs) -> None:
    beside = _without("moe_intermediate_size") | {"num_layers": 1}
    narrow, wide = runs.both("moe_intermediate_size", 16, 48, **beside)
    assert narrow.tensor("feedforward.down").shape == (4, 32, 16)
    assert wide.tensor("feedforward.down").shape == (4, 32, 48)


@pytest.mark.covers(
    "MOD-18: capacity_factor / --capacity-factor",
    "MOD-18: overflow tokens dropped",
    "MOD-18: kept",
)
@shows("moe_dispatch", "capacity_factor")
def dispatch(runs: Runs) -> None:
    def dropped(**leaves: object) -> float:
        run = runs.train(steps=1, **EXPERTS, **leaves)
        return max(run.rows[0]["moe.dropped_fraction"])

    assert dropped(moe_dispatch="dropless") == 0
    scarce = dropped(moe_dispatch="capacity", capacity_factor=0.25)
    enough = dropped(moe_dispatch="capacity", capacity_factor=4.0)
    assert enough == 0 and 0.5 < scarce < 1


@pytest.mark.covers("MOD-23")
@shows("auto_adjust_lr")
def rate(runs: Runs) -> None:
    """The default rate is a dense model's; experts of which a token sees 1 of 4."""
    given = runs.config(**EXPERTS | {"moe_top_k": 1})
    chosen = {
        leaf: given.get(leaf)
        for leaf, source in given.provenance.items()
        if source.kind == "python" and leaf != "learning_rate"
    }

    def peak(**leaves: object) -> tuple[float, str]:
        stream = io.StringIO()
        console = Console(stream=stream, live=False)
        leaves.pop(runs.ignored or "", None)
        leaves |= {"run_dir": runs.config().run.run_dir}  # a folder for each
        run = Trainer(Config(**chosen | leaves), console=console).train().run_dir
        first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
        return first["learning_rate"], stream.getvalue()

    lowered, told = peak()
    assert lowered == 1.5e-4 and "--no-auto-adjust-lr" in told
    assert peak(auto_adjust_lr=False)[0] == 3e-4
    assert peak(use_moe=False)[0] == 3e-4
    assert peak(learning_rate=1e-3)[0] == 1e-3


@pytest.mark.covers(
    "MOD-19: tight (factor 1.0, drop)", "MOD-19: loose (no drop)", "MOD-19: start 1.25"
)
@shows("overflow")
def overflow(runs: Runs) -> None:
    """Tight drops at factor 1.0, loose keeps all, adaptive begins at 1.25."""
    uneven = EXPERTS | {"routing_temperature": 0.01, "moe_top_k": 1}
    plain = [
        runs.train(**uneven, capacity_factor=factor, moe_dispatch="capacity")
        for factor in (1.0, 1.25)
    ]
    found = [runs.train(**uneven, overflow=x) for x in ("tight", "adaptive", "loose")]
    for run, same_run in zip(found, plain, strict=False):
        assert run.column("loss") == same_run.column("loss")
    lost = [max(map(max, run.column("moe.dropped_fraction"))) for run in found]
    assert lost[0] > lost[1] > lost[2] == 0
    # Past a larger share there is less; loose keeps it.
    past = [max(run.rows[0]["moe.overflow_fraction"]) for run in found]
    assert past[0] > past[1] > past[2] > 0
    runs.refused("E002", **EXPERTS, overflow="tight", capacity_factor=2.0)
    runs.refused("E002", **EXPERTS, overflow="loose", moe_dispatch="capacity")


@shows("moe_groups", "moe_top_groups")
def groups(runs: Runs) -> None:
    """Choices from one group of two are these two: their neighbours' loads agree."""
    beside = {"num_experts": 4, "moe_intermediate_size": 16, "use_moe": True}
    free, bound, both = (
        runs.train(steps=1, **beside, **leaves)
        for leaves in (
            {},
            {"moe_groups": 2},
            {"moe_groups": 2, "moe_top_groups": 2},
        )
    )
    pairs = [row[0] == row[1] and row[2] == row[3] for row in bound.rows[0]["moe.load"]]
    assert all(pairs)
    assert free.rows[0]["moe.load"] == both.rows[0]["moe.load"]
    assert free.rows[0]["moe.load"] != bound.rows[0]["moe.load"]


@shows("moe_normalise_top_k")
def normalised(runs: Runs) -> None:
    on, off = runs.both("moe_normalise_top_k", True, False, **EXPERTS)
    assert on.first_loss != pytest.approx(off.first_loss, abs=1e-5)


@pytest.mark.covers("MOD-17: load_balancing_weight")
@shows("load_balancing_weight", "router_z_loss_weight")
def auxiliary_losses(runs: Runs) -> None:
    """Neither is part of the first loss; both move the routers."""
    nothing = {"load_balancing_weight": 0.0, "router_z_loss_weight": 0.0}
    plain = runs.train(**EXPERTS, **nothing)
    for leaf in nothing:
        run = runs.train(**EXPERTS, **(nothing | {leaf: 1.0}))
        assert run.first_loss == plain.first_loss
        before = routers(plain)
        assert all(not same(t, before[name]) for name, t in routers(run).items())


@shows("moe_bias_update_rate")
def bias(runs: Runs) -> None:
    def biases(rate: float) -> list[torch.Tensor]:
        run = runs.train(moe_bias_update_rate=rate, steps=1, **EXPERTS)
        return [t for n, t in run.tensors.items() if n.endswith("selection_bias")]

    off, slow, fast = biases(0.0), biases(0.125), biases(0.25)
    assert not off and len(slow) == len(fast) == 2
    for one, two in zip(slow, fast, strict=True):
        assert one.any() and same(two, 2 * one)


@shows("moe_first_dense")
def first_dense(runs: Runs) -> None:
    for dense, layers in ((0, {"0", "1"}), (1, {"1"})):
        run = runs.train(moe_first_dense=dense, steps=1, **EXPERTS)
        assert {router.split(".")[2] for router in routers(run)} == layers


@shows("moe_shared_experts")
def shared_experts(runs: Runs) -> None:
    beside = EXPERTS | {"num_layers": 1}
    for count in (0, 1, 2):
        run = runs.train(moe_shared_experts=count, steps=1, **beside)
        shared = [t for name, t in run.tensors.items() if "shared.up" in name]
        assert [len(t) for t in shared] == ([32 * count] if count else [])


@pytest.mark.covers("MOD-20: routing_temperature")
@shows("moe_score", "moe_score_scale", "routing_temperature")
def scores(runs: Runs) -> None:
    plain = runs.train(steps=1, **EXPERTS).first_loss
    for change in (
        {"moe_score": "sigmoid"},
        {"moe_score_scale": 2.0},
        {"routing_temperature": 4.0},
    ):
        loss = runs.train(steps=1, **EXPERTS, **change).first_loss
        assert loss != pytest.approx(plain, abs=1e-5), change


@pytest.mark.covers("MOD-20: router_jitter_noise", "MOD-20: expert_dropout")
@shows("router_jitter_noise", "expert_dropout")
def routing_noise(runs: Runs) -> None:
    """In training other experts are chosen; an evaluation of the same weights is not
    disturbed."""
    still = EXPERTS | {"steps": 1, "learning_rate": 1e-12}
    for leaf in ("router_jitter_noise", "expert_dropout"):
        off, on = runs.both(leaf, 0.0, 0.6, **still)
        assert off.rows[0]["moe.load"] != on.rows[0]["moe.load"]
        assert off.column("eval_loss") == pytest.approx(on.column("eval_loss"))


@shows("moe_balance_scope")
def balance_scope(runs: Runs) -> None:
    """In the first step no global load is known: the loss is 1, and pulls nothing."""
    whole, own = runs.both("moe_balance_scope", "global", "micro_batch", **EXPERTS)
    assert whole.rows[0]["moe.balance_loss"] == pytest.approx(1.0, abs=1e-4)
    assert own.rows[0]["moe.balance_loss"] > 1.0001


def _without(leaf: str) -> dict[str, object]:
    return {name: value for name, value in EXPERTS.items() if name != leaf}


@pytest.mark.covers("TRN-08: inactive-expert updates skipped as an option")
@shows("skip_unused_experts")
def unused_experts(runs: Runs) -> None:
    """Of two experts no token reaches one, whose weights then decay, or stay."""
    shape = {"use_moe": True, "num_experts": 2, "moe_top_k": 1, "num_layers": 1}
    shape |= {"moe_intermediate_size": 16, "load_balancing_weight": 0.0}
    shape |= {"weight_decay": 0.5, "moe_normalise_top_k": False, "steps": 4}

    def look(program: Program, batches: StepBatches) -> dict[str, torch.Tensor]:
        layer = program.network.backbone.blocks[0].feedforward
        with torch.no_grad():  # the first expert gets every token
            layer.routing_bias.copy_(torch.tensor([50.0, 0.0]))
        return {n: getattr(layer, n).detach().clone() for n in ("gate_up", "down")}

    for rests in (False, True):
        found: list[dict[str, torch.Tensor]] = []
        run = runs.train(seen(look, found), skip_unused_experts=rests, **shape)
        assert run.rows[-1]["moe.load"] == [[1.0, 0.0]]
        for name in ("gate_up", "down"):
            first, last = found[0][name], found[-1][name]
            assert not same(first[0], last[0])
            assert same(first[1], last[1]) == rests
    beside = shape | {"skip_unused_experts": True}
    assert "noise" in runs.refused("E002", gradient_steps=("noise",), **beside)
    clip = {"optimizer_in_backward": True, "max_grad_norm": 0.0}
    assert "optimizer_in_backward" in runs.refused("E002", **clip, **beside)
    assert "elsewhere" in runs.refused("E002", optimizer_states_in="host", **beside)
