"""The scenarios of the benchmark of adaptive training."""

from __future__ import annotations

import hashlib
import json
from collections import Counter

import pytest

from lumina.errors import LuminaError
from lumina.measure.adaptive.arms import ARMS, faults_of, recipe
from lumina.measure.adaptive.population import population, sample
from lumina.measure.adaptive.scenario import BUDGET, SHAPES, Scenario
from lumina.measure.adaptive.texts import (
    BAD_LOSS,
    END,
    SPOILERS,
    held_out_text,
    synthetic,
    training_text,
)

DEVELOPMENT, HELD_OUT = population("development"), population("held-out")
FOUND = {"rates": dict.fromkeys(SHAPES, 0.004), "warmup": 0.1}

DIGESTS = {
    "development": "c7c67d593eaa6ddb3f049ee9b406053385e406a915d52e02186a8666d1f40dc9",
    "held-out": "4bc9fc7150016a046a0c72a2f883c378f25e10233e07f98b893a48482e577907",
}
"""Of the committed population. Another one is another benchmark."""


@pytest.mark.parametrize("half", ["development", "held-out"])
def test_each_half_has_its_shares(half):
    counts = Counter(one.stratum for one in population(half))
    assert counts == {"clean": 160, "misconfigured": 140, "fault": 100}


@pytest.mark.parametrize("half", DIGESTS)
def test_the_population_is_the_committed_one(half):
    lines = "".join(json.dumps(one.to_dict()) + "\n" for one in population(half))
    assert hashlib.sha256(lines.encode()).hexdigest() == DIGESTS[half]


def test_only_the_held_out_half_has_further_families_and_magnitudes():
    known = {(one.family, one.level) for one in DEVELOPMENT}
    families = {one.family for one in DEVELOPMENT}
    assert all(one.seen for one in DEVELOPMENT)
    for one in HELD_OUT:
        assert one.seen == ((one.family, one.level) in known)
    levels = Counter(
        one.stratum for one in HELD_OUT if not one.seen and one.family in families
    )
    assert levels == {"misconfigured": 35, "fault": 20}
    others = [one for one in HELD_OUT if one.family not in families]
    assert Counter(one.stratum for one in others) == {"misconfigured": 35, "fault": 30}
    assert sum(one.natural for one in others) > 10


def test_a_twin_differs_only_in_what_is_wrong():
    for half in (DEVELOPMENT, HELD_OUT):
        by_id = {one.id: one for one in half}
        for one in half:
            twin = by_id[one.twin]
            assert twin.stratum == "clean"
            assert (twin.shape, twin.seed, twin.text_at) == (
                one.shape,
                one.seed,
                one.text_at,
            )


def test_a_sample_has_the_same_shares_and_every_family():
    some = sample(HELD_OUT)
    counts = Counter(one.stratum for one in some)
    assert counts == {"clean": 32, "misconfigured": 28, "fault": 20}
    wrong = {one.family for one in HELD_OUT if one.stratum == "misconfigured"}
    assert wrong <= {one.family for one in some}


def test_a_scenario_survives_its_file():
    for one in HELD_OUT:
        assert Scenario.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_every_arm_trains_on_the_same_tokens():
    for arm in ARMS.values():
        for one in DEVELOPMENT:
            made = recipe(one, arm, found=FOUND)
            assert made.steps * made.tokens == BUDGET


def test_the_rate_of_a_scenario_is_a_multiple_of_the_tuned_one():
    one = next(s for s in DEVELOPMENT if s.level == "x 0.3")
    assert recipe(one, ARMS["competent"], found=FOUND).learning_rate == 0.3 * 0.004
    assert recipe(one, ARMS["oracle"], found=FOUND).learning_rate == 0.004
    assert recipe(one, ARMS["naive"], found=FOUND).warmup == 0


def test_a_fault_of_the_data_is_in_the_text_where_the_run_comes_to_it():
    text = synthetic(600_000)
    one = next(s for s in DEVELOPMENT if s.level == "3 steps")
    documents = training_text(text, one).split(END)
    bad = [place for place, words in enumerate(documents) if BAD_LOSS in words]
    first = faults_of(one, ARMS["naive"], 160)[0]["step"]
    assert bad == [first, first + 1, first + 2]
    twin = next(s for s in DEVELOPMENT if s.id == one.twin)
    clean = training_text(text, twin).split(END)
    assert [a == b for a, b in zip(documents, clean, strict=True)].count(False) == 3


def test_halves_and_held_out_text_share_no_words():
    text = "".join(f"{n:07d}" for n in range(120_000))
    pieces = {
        half: {training_text(text, one)[:2000] for one in population(half)[:40]}
        for half in DIGESTS
    }
    assert not pieces["development"] & pieces["held-out"]
    for half in DIGESTS:
        held_out = held_out_text(text, half).split(END)[1]
        assert all(held_out not in piece for piece in pieces[half])


def test_every_spoiler_is_used_by_a_family():
    kinds = {fault["kind"] for one in HELD_OUT for fault in one.faults}
    assert kinds >= set(SPOILERS)


def test_another_half_is_refused():
    with pytest.raises(LuminaError, match="E005"):
        population("both")
