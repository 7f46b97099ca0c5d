"""Tiers of context lengths: what they take, and the highest that fits."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from lumina.cli.main import main
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.plan.context_tiers import CONTEXT_TIERS, tier_memories, with_tier
from lumina.plan.environment import Environment
from lumina.plan.layout_choice import MEMORY_SHARE
from lumina.plan.reach import STEP, longest_row, most_rows
from lumina.plan.shape import resolve_spec
from machines import gpu, plan_for


def card(gib: float) -> Environment:
    return gpu("a card", gib, (8, 0))


def config(**changes: object) -> Config:
    return Config(preset="debug", use_moe=False, vocab_size=512, **changes)


@pytest.mark.covers("MEM-21")
@pytest.mark.parametrize("gib", [0.3, 1.0, 8.0, 2000.0])
def test_auto_takes_the_highest_tier_that_the_plan_admits(gib: float) -> None:
    asked = config(tier="auto")
    found = with_tier(
        asked, card(gib), model=None, vocab_size=None, world_size=1
    ).replace(global_batch_size=1)
    lengths = [tier.tokens for tier in CONTEXT_TIERS]
    place = lengths.index(found.model.seq_length)
    plan = plan_for(found, card(gib))  # E201 if it did not fit
    assert plan.memory["bound"] <= MEMORY_SHARE * card(gib).memory_bytes
    if place + 1 < len(lengths):
        longer = config(seq_length=lengths[place + 1], global_batch_size=1)
        least = longer.replace(gradient_checkpointing="full", batch_size=1)
        bound = plan_for(least, card(2000)).memory["bound"]
        assert bound > MEMORY_SHARE * card(gib).memory_bytes
    else:
        assert gib == 2000.0


@pytest.mark.covers("MEM-23")
def test_the_choice_says_what_the_next_tier_would_take() -> None:
    found = with_tier(
        config(tier="auto"), card(1), model=None, vocab_size=None, world_size=1
    )
    why = found.provenance["seq_length"].detail
    memories = list(tier_memories(config(), card(1), vocab_size=None))
    chosen = [one for one in memories if one.fits][-1]
    beyond = memories[chosen.tier.number]
    assert found.model.seq_length == chosen.tier.tokens
    assert f"tier {chosen.tier.number}" in why and f"tier {beyond.tier.number}" in why
    assert beyond.largest.replace("_", " ") in why and "too much" in why
    assert all(
        sum(size for name, size in one.bytes.items() if name not in _SUMS)
        >= one.bytes["bound"]
        for one in memories
    )


_SUMS = ("bound", "expected")


def test_a_pretrained_model_reads_no_more_than_it_knows() -> None:
    model = replace(resolve_spec(config()), seq_length=20_000)
    found = with_tier(
        config(tier="auto"), card(900), model=model, vocab_size=None, world_size=1
    )
    assert found.model.seq_length == CONTEXT_TIERS[2].tokens
    assert "20,000" in found.provenance["seq_length"].detail


def test_no_tier_fits_a_small_card() -> None:
    with pytest.raises(LuminaError, match="E201") as error:
        with_tier(
            config(tier="auto"), card(0.1), model=None, vocab_size=None, world_size=1
        )
    assert "tier 1" in str(error.value)


def test_the_longest_row_and_the_most_rows_are_at_the_limit() -> None:
    asked, machine = config(), card(1)
    length = longest_row(asked, machine, vocab_size=None)
    rows = most_rows(asked, machine, vocab_size=None)
    one = {"global_batch_size": 1, "batch_size": 1}
    least = {"gradient_checkpointing": "full"}
    room = MEMORY_SHARE * machine.memory_bytes
    plan_for(asked.replace(seq_length=length, **one), machine)
    longer = asked.replace(seq_length=length + STEP, **one, **least)
    assert plan_for(longer, card(9)).memory["bound"] > room
    plan_for(asked.replace(batch_size=rows, global_batch_size=rows), machine)
    more = asked.replace(batch_size=rows + 1, global_batch_size=rows + 1, **least)
    assert plan_for(more, card(9)).memory["bound"] > room
    assert longest_row(asked, machine, vocab_size=None, limit=1024) == 1024
    assert longest_row(asked, card(0.01), vocab_size=None) == 0


def test_the_command_answers_for_a_card_that_is_not_there(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["plan", "--preset", "dense_125m", "--hardware-profile", "8 GB"]
    assert main([*words, "--fit", "--tiers", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["memory_bytes"] == pytest.approx(0.97 * 8 * 2**30, abs=1)
    assert found["fits"] and found["least_bytes"] <= found["room_bytes"]
    fits = [one["tier"] for one in found["tiers"] if one["fits"]]
    assert fits == list(range(1, len(fits) + 1)) and 0 < len(fits) < 11
    here = sum(one["fits"] and not one["settings"] for one in found["tiers"])
    highest, beyond = found["tiers"][here - 1], found["tiers"][here]
    assert highest["tokens"] <= found["longest_row"] < beyond["tokens"]
    assert main([*words, "--fit", "--tiers"]) == 0
    text = capsys.readouterr().out
    assert f"highest that fits: tier {len(fits)}" in text
    assert f"{found['longest_row']:,} tokens" in text
    # A step that does not fit is an answer, too.
    large = ["plan", "--preset", "b1", "--vocab-size", "32000", "--fit"]
    assert main([*large, "--hardware-profile", "16 GB"]) == 0
    assert "fits             no" in capsys.readouterr().out


def test_a_cap_makes_a_large_card_small(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--preset", "dense_125m", "--fit", "--json"]
    words += ["--hardware-profile", "h200"]
    assert main([*words, "--cap-memory", "8 GiB"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["memory_bytes"] == 8 * 2**30 and found["machine"] == "NVIDIA H200"
    assert main([*words, "--cap-memory", "900 GB"]) == 0
    assert json.loads(capsys.readouterr().out)["memory_bytes"] < 150 * 2**30
