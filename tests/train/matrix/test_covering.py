"""Rows in which every pair, or triple, of features stands together."""

from __future__ import annotations

import dataclasses
import random
from itertools import combinations
from typing import Any

import pytest

from lumina.config import Config
from lumina.features.measured import VERIFIED
from lumina.train.matrix.cell import Cell, clash, tried_features
from lumina.train.matrix.choosing import chosen_cells, goes
from lumina.train.matrix.covering import covering, smallest_refused
from lumina.train.matrix.planning import idle_in, planned_on
from lumina.train.matrix.run import missing_here, narrower, refusal
from machines import cpu, gpu


@pytest.mark.parametrize("strength", [2, 3])
@pytest.mark.parametrize("seed", range(8))
def test_every_tuple_that_is_allowed_is_in_a_row(strength: int, seed: int) -> None:
    """Against every pair of random exclusions; no row holds one that is excluded."""
    draw = random.Random(seed)
    names = [f"f{n}" for n in range(draw.randint(strength, 12))]
    excluded = {p for p in combinations(names, 2) if draw.random() < 0.3}

    def allowed(row: tuple[str, ...]) -> bool:
        return not excluded & set(combinations(row, 2))

    rows, refused = covering(
        names, allowed, strength=strength, width=draw.randint(strength, 6)
    )
    wanted = {one for one in combinations(names, strength) if allowed(one)}
    covered = {one for row in rows for one in combinations(row, strength)}
    assert covered == wanted
    assert set(refused) == set(combinations(names, strength)) - wanted
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("seed", range(8))
def test_what_is_found_out_of_whole_rows_costs_no_tuple_that_is_accepted(
    seed: int,
) -> None:
    """Hidden conflicts of two and three features, and pairs that are done already."""
    draw = random.Random(seed)
    names = [f"f{n}" for n in range(draw.randint(5, 12))]
    hidden = [frozenset(draw.sample(names, draw.choice([1, 2, 2, 3]))) for _ in "1234"]
    done = {p for p in combinations(names, 2) if draw.random() < 0.3}

    def accepted(row: tuple[str, ...]) -> bool:
        return not any(frozenset(row) >= one for one in hidden)

    rows, refused = covering(
        names, lambda row: True, strength=2, width=5, done=done, accepted=accepted
    )
    assert all(accepted(row) for row in rows)
    wanted = {p for p in combinations(names, 2) if accepted(p)} - done
    covered = {one for row in rows for one in combinations(row, 2)}
    assert wanted <= covered
    assert set(refused) <= {p for p in combinations(names, 2) if not accepted(p)}
    # What no row holds is known to be refused, or done.
    assert set(combinations(names, 2)) <= covered | set(refused) | done


def test_the_smallest_part_that_is_refused_is_found() -> None:
    def accepted(row: tuple[str, ...]) -> bool:
        return not {"b", "d"} <= set(row)

    assert smallest_refused(tuple("abcde"), accepted) == ("b", "d")
    assert smallest_refused(tuple("bd"), accepted) == ("b", "d")
    assert smallest_refused(tuple("abc"), lambda row: "c" not in row) == ("c",)


def test_rows_are_far_fewer_than_pairs() -> None:
    names = [f"f{n}" for n in range(30)]
    rows, _ = covering(names, lambda row: True, strength=2, width=6)
    assert all(len(row) <= 6 for row in rows)
    # 435 pairs, and 15 fit into a row.
    assert 29 <= len(rows) <= 60
    with pytest.raises(ValueError, match="hold no 3"):
        covering(names, lambda row: True, strength=3, width=2)


def test_rows_that_are_not_verified_are_tried_in_halves_down_to_the_pair() -> None:
    """One bad pair of eight features is found; what is verified is not tried again."""
    names, bad = tried_features()[:8], set(tried_features()[2:5:2])

    def row(features: tuple[str, ...]) -> dict[str, Any]:
        status = "differs" if bad.issubset(features) else VERIFIED
        return {"features": list(features), "status": status, "named": ""}

    rows = [row(tuple(names))]
    rounds = []
    while again := narrower(rows):
        rounds.append({len(cell.features) for cell in again})
        rows += [row(cell.features) for cell in again]
    assert [max(widths) for widths in rounds] == [4, 2]
    cells = [tuple(one["features"]) for one in rows]
    assert len(set(cells)) == len(cells) < 1 + len(list(combinations(names, 2)))
    good = {
        pair for one in rows if one["status"] == VERIFIED
        for pair in combinations(one["features"], 2)
    }  # fmt: skip
    left = {one for one in combinations(names, 2) if one not in good}
    assert left == {tuple(n for n in names if n in bad)} <= set(cells)


@pytest.mark.parametrize("name", tried_features())
def test_a_feature_is_tried_with_options_that_are_accepted(name: str) -> None:
    """Also where no machine of the tests can try it, and so is its reference."""
    cell = Cell((name,))
    assert refusal(cell) is None
    reference = {leaf: one for leaf, one in cell.reference.items() if one is not None}
    Config(**reference)


def test_what_two_features_round_alike_is_allowed_once() -> None:
    both = Cell(("flash_attention", "bf16"))
    assert both.tolerance == Cell(("bf16",)).tolerance
    assert Cell(("flash_attention",)).tolerance == both.tolerance
    sum_of_both = Cell(("bf16", "adamw_8bit")).tolerance.learned
    assert sum_of_both > both.tolerance.learned


def test_a_package_that_is_missing_is_absent_and_no_difference() -> None:
    machine = gpu()
    assert missing_here(Cell(("flash_attention",)), machine) is None
    without = dataclasses.replace(
        machine, flash3=False, flash3_detail="no flash-attn-3"
    )
    told = missing_here(Cell(("flash_attention_3",)), without)
    assert told == "flash_attention_3 needs its package: no flash-attn-3"
    there = dataclasses.replace(without, flash3=True)
    assert missing_here(Cell(("flash_attention_3",)), there) is None


def test_pairs_of_the_table_are_covered_or_refused() -> None:
    """Of all features: what one option excludes is no cell, what is refused is one."""
    names = tried_features()[:16]
    cells = chosen_cells(pairs=True, only=names, width=4)
    covered = {
        pair for cell in cells if goes(cell.features)
        for pair in combinations(cell.features, 2)
    }  # fmt: skip
    refused = {cell.features for cell in cells if not goes(cell.features)}
    for pair in combinations(names, 2):
        assert (pair in covered) + (pair in refused) + (clash(pair) is not None) == 1
    assert ("ema", "swa") in refused
    fewer = chosen_cells(pairs=True, only=names, width=4, here=lambda n: n != "ema")
    assert fewer and not any("ema" in cell.features for cell in fewer)
    assert ("adapters", "qk_norm") in covered


def test_rows_that_are_there_are_not_laid_again() -> None:
    """Nor what is known to go wrong together, nor a feature that does so alone."""
    names = ["qk_norm", "ema", "chunked_loss", "bf16", "adamw_8bit", "dropout"]

    def row(status: str, *features: str) -> dict[str, Any]:
        return {"features": list(features), "status": status, "named": ""}

    there = [
        row(VERIFIED, "qk_norm", "ema", "chunked_loss"),
        row("differs", "bf16", "adamw_8bit"),
        row("failed", "dropout"),
    ]
    cells = chosen_cells(pairs=True, only=names, rows=there)
    assert [cell.features for cell in cells] == [
        ("qk_norm", "ema", "chunked_loss"),
        ("bf16", "adamw_8bit"),
        ("qk_norm", "ema", "chunked_loss", "bf16"),
        ("qk_norm", "ema", "chunked_loss", "adamw_8bit"),
    ]


def test_what_only_the_plan_refuses_is_in_no_row() -> None:
    """Experts with a feed-forward of one's own; a budget that nothing exceeds."""
    machine = cpu()
    names = ["qk_norm", "mixture_of_experts", "registered_feedforward",
             "gradient_checkpointing_budget", "activation_bits"]  # fmt: skip
    planned = planned_on(machine)
    cells = chosen_cells(pairs=True, only=names, planned=planned)
    rows = [cell.features for cell in cells if planned(cell.features)]
    held = {pair for row in rows for pair in combinations(row, 2)}
    apart = {cell.features for cell in cells if not planned(cell.features)}
    assert apart == {
        ("mixture_of_experts", "registered_feedforward"),
        ("gradient_checkpointing_budget", "activation_bits"),
    }
    order = tried_features()
    every = combinations(sorted(names, key=order.index), 2)
    assert held == set(every) - apart
    assert "within the budget" in idle_in(Cell(names[3:]), machine)
    assert not idle_in(Cell(("gradient_checkpointing_budget",)), machine)


def test_a_reference_has_not_what_another_feature_switches() -> None:
    """Blocks are computed again beside activations on a disk, and in its reference."""
    disk, branch = "activations_disk", "gradient_checkpointing_feedforward"
    assert Cell((disk,)).reference["gradient_checkpointing"] == "full"
    both = Cell((branch, disk))
    assert both.leaves["gradient_checkpointing"] == "feedforward"
    assert both.reference["gradient_checkpointing"] == "none"
