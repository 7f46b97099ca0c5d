"""Stage 1 of ZeRO on two ranks, and from it to other stages and numbers of ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lumina.assemble.assemble import assemble
from lumina.assemble.source import StateSource
from lumina.plan.costs.state import state_bytes
from lumina.plan.figures import layout_of
from programs import conversations, stream_of, take_steps, tiny_plan, told_state
from training import in_processes
from zero_ranks import (
    BF16,
    FIRST,
    SETTINGS,
    THEN,
    WHOLE,
    plan_of,
    rows_of_looks,
    two_stages,
)

pytestmark = pytest.mark.thorough

HELD = {"model": "weights", "optimizer": "optimizer", "gradient": "gradients"}
"""What a Program holds, and the name of it in a plan."""


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return conversations(tmp_path_factory.mktemp("chats"))


@pytest.fixture(scope="module")
def two(store) -> dict[int, dict[str, Any]]:
    """What each of two ranks found."""
    return dict(in_processes(two_stages, 2, store.folder, answers=2))


def alone(changes: dict[str, Any]) -> Any:
    """The same run in one process."""
    values = {k: v for k, v in changes.items() if k not in ("moe", "micro_batch_size")}
    return tiny_plan(changes.get("moe", False), **values)


@pytest.mark.covers("DST-03: ZeRO-1 (optimizer states)")
@pytest.mark.parametrize("setting", list(SETTINGS))
def test_losses_and_clipped_norms_are_those_of_one_process(store, two, setting) -> None:
    plan = alone(SETTINGS[setting])
    wanted, _ = take_steps(assemble(plan), stream_of(store), FIRST)
    close = 1e-5 if plan.compute_dtype == "float32" else 2e-2
    for rank in two.values():
        found = torch.tensor(rank[setting]["numbers"])
        torch.testing.assert_close(found, wanted, rtol=close, atol=close)


def test_small_parameters_stay_whole_and_learn_as_in_one_process(store, two) -> None:
    """Their gradients are averaged, and count once in the norm that clips."""
    plan = alone({"max_grad_norm": 0.5})
    program = assemble(plan)
    wanted, progress = take_steps(program, stream_of(store), FIRST)
    assert (wanted[:, 1] > 0.5).all()
    ones = [two[rank]["persistent"] for rank in (0, 1)]
    for one in ones:
        torch.testing.assert_close(
            torch.tensor(one["numbers"]), wanted, rtol=1e-5, atol=1e-5
        )
        for size, sharded in one["sizes"].values():
            assert sharded == (size >= 2000)
        assert {sharded for _, sharded in one["sizes"].values()} == {True, False}
        assert one["same"] == one["ahead"]
        torch.testing.assert_close(
            torch.tensor(one["divided"]),
            torch.tensor(one["ahead"]),
            rtol=1e-5,
            atol=1e-5,
        )
        changes = {"stage3_param_persistence_threshold": 2000, "micro_batch_size": 4}
        planned = plan_of("fsdp2", **changes)
        counted = state_bytes(planned.spec, layout_of(planned))
        for kept, bytes_of in HELD.items():
            assert one["held"][kept] == pytest.approx(counted[bytes_of], rel=1e-3)
    for name, value in program.network.named_parameters():
        if name in ones[0]["state"]:
            found = torch.from_numpy(ones[0]["state"][name])
            torch.testing.assert_close(found, value.detach(), rtol=1e-4, atol=1e-5)
    take_steps(program, stream_of(store), THEN, progress)
    looked = rows_of_looks(program, stream_of(store))
    assert ones[0]["looked"].keys() == looked.keys()
    for key, value in looked.items():
        assert ones[0]["looked"][key] == pytest.approx(value, rel=1e-3), key
    mine, theirs = (one["weights"] for one in ones)
    assert all((mine[name] == theirs[name]).all() for name in mine)


@pytest.mark.covers("DST-04: stage3_param_persistence_threshold 10000")
@pytest.mark.parametrize("name", list(WHOLE))
def test_however_many_stay_whole_training_is_that_of_one_process(
    store, two, name
) -> None:
    """None, all but the embeddings, or all; the plan counts what a rank then holds."""
    changes = WHOLE[name] | {"max_grad_norm": 0.5}
    below = changes["stage3_param_persistence_threshold"]
    program = assemble(alone(changes))
    wanted, _ = take_steps(program, stream_of(store), FIRST)
    assert (wanted[:, 1] > 0.5).all(), "every step is clipped"
    close = 1e-5 if "compute_dtype" not in changes else 2e-2
    plan = plan_of("fsdp2", **changes)
    counted = state_bytes(plan.spec, layout_of(plan))
    weighs = counted["master_weights"] or counted["weights"]  # of float32
    weights = dict(program.network.named_parameters())
    for one in (two[rank]["persistent", name] for rank in (0, 1)):
        found = torch.tensor(one["numbers"])
        torch.testing.assert_close(found, wanted, rtol=close, atol=close)
        assert all(size < below for size in one["whole"])
        assert all(size >= below for size in one["divided"])
        assert bool(one["whole"]) == (below > 0) and len(weights) == len(
            one["whole"] + one["divided"]
        )
        assert one["held"]["model"] == pytest.approx(weighs, rel=1e-3)
        assert one["held"]["optimizer"] == pytest.approx(counted["optimizer"], rel=1e-3)
        if plan.grad_accum == 1:
            held = one["held"]["gradient"]
            assert held == pytest.approx(counted["gradients"], rel=1e-3)
        for key, found in one["state"].items():
            if key in weights and close == 1e-5:
                torch.testing.assert_close(
                    torch.from_numpy(found), weights[key].detach(), rtol=10 * close,
                    atol=close, msg=key,
                )  # fmt: skip


@pytest.mark.parametrize("setting", list(SETTINGS))
def test_what_was_saved_goes_on_to_the_bit(two, setting) -> None:
    for rank in two.values():
        assert rank[setting]["zero1"]["same"]
    mine, theirs = (set(two[rank][setting]["mine"]) for rank in (0, 1))
    assert mine and theirs and not mine & theirs
    assert mine | theirs == set(two[0][setting]["state"][0])


@pytest.mark.parametrize("way", ["zero2", "fsdp2", "ddp"])
def test_what_was_saved_goes_on_in_another_stage(two, way) -> None:
    for rank in two.values():
        found = rank["float32"][way]
        assert found["numbers"] == [
            pytest.approx(row, rel=1e-5) for row in found["wanted"]
        ]


def test_what_was_saved_goes_on_in_one_process(store, two) -> None:
    one = two[0]["float32"]
    state = told_state(*one["state"], one["extra"], FIRST)
    assert set(state.optimizer) == {"exp_avg", "exp_avg_sq", "ema"}
    program = assemble(alone(SETTINGS["float32"]), StateSource(state), meta=state)
    found, _ = take_steps(program, stream_of(store), THEN, one["progress"])
    wanted = torch.tensor(one["zero1"]["wanted"])
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.covers("DST-03: ZeRO-1 (optimizer states)")
@pytest.mark.parametrize(
    "setting",
    [
        pytest.param(
            name,
            # Blocks are computed again in stage 1.
            marks=pytest.mark.covers("MTX-11: initialised", "MTX-11: stage 1")
            if name == "recomputed"
            else (),
        )
        for name in SETTINGS
    ],
)
def test_each_rank_holds_what_the_plan_says(two, setting) -> None:
    """The two ranks together hold the states once; each the weights whole."""
    plan = plan_of(**SETTINGS[setting])
    planned = state_bytes(plan.spec, layout_of(plan))
    for rank in two.values():
        held = rank[setting]["held"]
        assert held == {name: planned[name] for name in held}


@pytest.mark.covers("DST-03: ZeRO-2 (+ gradients)", "DST-03: ZeRO-3 (+ parameters)")
@pytest.mark.parametrize("way", ["zero2", "fsdp2"])
def test_gradients_of_micro_batches_are_whole_or_divided(two, way) -> None:
    """Reduced once a step, each rank holds all of them until then, as is planned."""
    planned = []
    for when in ("step", "micro_batch"):
        plan = plan_of(way, gradients_reduced=when)
        planned.append(state_bytes(plan.spec, layout_of(plan))["gradients"])
    for rank in two.values():
        once, whole = rank["reduced"][way, "step"]
        each, parts = rank["reduced"][way, "micro_batch"]
        assert each == [pytest.approx(row, rel=1e-5) for row in once]
        assert parts == planned[1]
        assert whole == planned[0] - planned[1] == 2 * parts


@pytest.mark.covers("DST-06")
@pytest.mark.parametrize("way", ["zero1", "fsdp2"])
def test_states_beside_the_device_change_nothing(two, way) -> None:
    """Each rank has its part of them in host memory or in files."""
    found = two[1]["beside"]
    assert found[way, "host"] == found[way, "disk"] == found[way, "device"]


def test_every_optimizer_steps_as_it_does_with_divided_weights(two) -> None:
    """The same rows, the same gradients, the same numbers: to the bit."""
    found = two[0]["optimizers"]
    assert {"adamw", "adamw_8bit", "adafactor", "lion", "muon"} <= set(found)
    for name, (states, weights) in found.items():
        assert states == weights, name


@pytest.mark.covers("MTX-13: ZeRO-3 + checkpointing + AMP")
def test_divided_weights_recomputation_and_bfloat16_together(store, two) -> None:
    """The step of one process; each rank holds its half, and a step makes the least."""
    again = {**BF16, "gradient_checkpointing": "full"}
    wanted, _ = take_steps(assemble(alone(again)), stream_of(store), 2)
    plan = plan_of("fsdp2", **again)
    planned = state_bytes(plan.spec, layout_of(plan))
    for rank in two.values():
        found = rank["together"]["fsdp2", "full"]
        numbers = torch.tensor(found["numbers"])
        torch.testing.assert_close(numbers, wanted, rtol=2e-2, atol=2e-2)
        whole = rank["together"]["ddp", "full"]["held"]
        for what in ("model", "optimizer"):
            assert found["held"][what] == whole[what] // 2, what
        assert found["held"]["optimizer"] == planned["optimizer"]
        kept = rank["together"]["fsdp2", "none"]["most"]
        assert found["most"] < 0.9 * kept


@pytest.mark.covers("MTX-11: memory")
def test_stage_1_and_recomputation_save_what_each_of_them_saves(two) -> None:
    """Half the states of the optimizer, and the activations inside of blocks."""
    plans = {way: plan_of(way, **BF16) for way in ("ddp", "zero1")}
    states = {
        way: state_bytes(plan.spec, layout_of(plan))["optimizer"]
        for way, plan in plans.items()
    }
    for rank in two.values():
        found = rank["together"]
        held = {how: one["held"]["optimizer"] for how, one in found.items()}
        for again in ("none", "full"):
            saved = held["ddp", again] - held["zero1", again]
            assert saved == states["ddp"] - states["zero1"] > 0
        for way in ("ddp", "zero1"):
            kept, less = (found[way, again]["most"] for again in ("none", "full"))
            assert less < 0.9 * kept
