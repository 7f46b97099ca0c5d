from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina.config import Config, ConfigPresets
from lumina.errors import LuminaError
from lumina.plan.batching import resolve_batching
from machines import gpu, plan_for


@pytest.mark.covers(
    "TRN-19", "PRE-13: batch size automatic, accumulation keeps the effective batch"
)
@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_a_preset_keeps_its_global_batch_on_any_number_of_ranks(
    world_size: int,
) -> None:
    config = Config.resolve(preset="debug")
    plan = plan_for(config, world_size=world_size)
    assert plan.global_batch_size == config.train.global_batch_size
    product = plan.micro_batch_size * plan.grad_accum * world_size
    assert product == plan.global_batch_size


@pytest.mark.parametrize(
    ("flags", "world_size", "expected"),
    [
        # micro-batch, accumulation, global
        ({"batch_size": 4, "grad_accum": 3}, 2, (4, 3, 24)),
        ({"global_batch_size": 24, "batch_size": 4}, 2, (4, 3, 24)),
        ({"global_batch_size": 24, "grad_accum": 3}, 2, (4, 3, 24)),
        ({"global_batch_size": 24, "grad_accum": 3, "batch_size": 8}, 1, (8, 3, 24)),
        ({"batch_size": 5}, 2, (5, 1, 10)),
        ({}, 1, (32, 1, 32)),
        ({}, 3, (1, 11, 33)),
        ({"global_batch_size": 24}, 1, (8, 3, 24)),
    ],
)
def test_what_is_left_open_is_derived(
    flags: dict[str, int], world_size: int, expected: tuple[int, int, int]
) -> None:
    plan = plan_for(Config(vocab_size=64, **flags), world_size=world_size)
    got = (plan.micro_batch_size, plan.grad_accum, plan.global_batch_size)
    assert got == expected


@pytest.mark.parametrize(
    ("flags", "world_size", "named"),
    [
        ({"global_batch_size": 16, "batch_size": 4}, 3, "12 or 24"),
        ({"global_batch_size": 24, "grad_accum": 2, "batch_size": 4}, 2, "16"),
        ({"global_batch_size": 10}, 4, "8 or 12"),
        ({"global_batch_size": 2}, 4, "4"),
    ],
)
def test_contradictions_are_refused_with_the_number_that_works(
    flags: dict[str, int], world_size: int, named: str
) -> None:
    with pytest.raises(LuminaError) as caught:
        plan_for(Config(vocab_size=64, **flags), world_size=world_size)
    assert caught.value.code == "E002"
    assert f"--global-batch-size {named}" in caught.value.hint


def test_a_presets_batch_that_ranks_cannot_share_is_refused() -> None:
    with pytest.raises(LuminaError, match="preset debug"):
        plan_for(Config.resolve(preset="debug"), world_size=3)


def test_a_presets_batch_gives_way_to_a_batch_size_and_says_so() -> None:
    config = Config.resolve(preset="debug", flags={"batch_size": 4})
    plan = plan_for(config, world_size=3)
    assert plan.micro_batch_size == 4
    assert plan.global_batch_size == 12
    assert any("not the 16 of preset debug" in text for text in plan.warnings)


@given(
    batch=st.none() | st.integers(1, 9),
    accum=st.none() | st.integers(1, 9),
    whole=st.none() | st.integers(1, 200),
    world_size=st.integers(1, 9),
)
def test_the_equation_always_holds_or_is_refused(
    batch: int | None, accum: int | None, whole: int | None, world_size: int
) -> None:
    options = {
        "batch_size": batch,
        "grad_accum": accum,
        "global_batch_size": whole,
    }
    try:
        config = Config(**{k: v for k, v in options.items() if v is not None})
        batching = resolve_batching(config, world_size)
    except LuminaError as error:
        assert error.code == "E002"
        assert "use " in error.hint or "leave" in error.hint
        return
    for split in batching.choices:
        product = split.micro_batch_size * split.grad_accum * world_size
        assert product == batching.global_batch_size
        assert batch in (None, split.micro_batch_size)
        assert accum in (None, split.grad_accum)
    assert whole in (None, batching.global_batch_size)


@pytest.mark.covers("TRN-19", "ORC-32: batch tuning per hardware")
def test_less_memory_gives_smaller_forwards_and_the_same_step() -> None:
    config = ConfigPresets.m70_memory().replace(gradient_checkpointing="none")
    large = plan_for(config, gpu(gib=140))
    small = plan_for(config, gpu("NVIDIA GeForce RTX 4090", 24, (8, 9)))
    assert small.micro_batch_size < large.micro_batch_size
    assert small.global_batch_size == large.global_batch_size
    assert small.grad_accum > large.grad_accum
    assert small.memory["bound"] <= 0.9 * 24 * 2**30
    assert "24.0 GiB" in small.reasons["micro_batch_size"]
