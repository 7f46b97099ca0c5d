"""How a run's model answers where nothing is said."""

from __future__ import annotations

import json

import pytest

import lumina
from option_effects import shows
from tiny_runs import Runs


@pytest.mark.covers("CFG-02: keys of the example")
@shows("max_new_tokens", "temperature", "top_k", "top_p")
def answers(runs: Runs) -> None:
    usual = runs.train(steps=1)
    asked = {"max_new_tokens": 5, "temperature": 1.5, "top_k": 7, "top_p": 0.5}
    warm = runs.train(steps=1, **asked)
    file = warm.folder / "tokenizer" / "generation_config.json"
    says = json.loads(file.read_text())
    assert {name: says.get(name) for name in asked} == asked and says.get(
        "do_sample"
    ) is True

    def answer(run, **given: object) -> str:
        return str(lumina.generate(run.folder, "The", device="cpu", **given))

    given = {"max_new_tokens": 5, "temperature": 1.5, "top_k": 7, "top_p": 0.5}
    assert answer(warm, seed=1) == answer(usual, seed=1, **given)
    alone = {"max_new_tokens": 9}
    assert answer(warm, seed=1, **alone).startswith(answer(warm, seed=1))
    place = {"run_dir": str(warm.folder), "auto_resume": True}
    cold = runs.train(steps=2, **place, temperature=0.0)
    assert answer(cold, seed=1) == answer(cold, seed=2)
    assert json.loads(file.read_text())["do_sample"] is False
