"""Options of weights in few bits."""

from __future__ import annotations

from typing import Any

import pytest

from lumina.assemble.program import Program
from lumina.model.stored import stored_pieces
from option_effects import shows
from tiny_runs import Runs, seen


@shows("quantization_scenario")
def scenario(runs: Runs) -> None:
    """A scenario brings its few bits; without one there are none."""
    trained = runs.train(steps=1)
    found: list[set[str]] = []

    def codecs(program: Program, _: Any) -> set[str]:
        return {one.codec for one in stored_pieces(program.network).values()}

    options = {"init_from": str(trained.folder), "steps": 1, "precision": "fp32"}
    for name in (None, "balanced", "memory_constrained"):
        runs.train(seen(codecs, found), quantization_scenario=name, **options)
    assert found == [set(), {"int8"}, {"nf4_double"}]


@shows("quantization_eval_batches")
def compared(runs: Runs) -> None:
    """So many batches of held-out text are compared before the first step."""
    shape = {"eval_fraction": 0.3, "eval_batches": 8}
    base = runs.train(steps=1, **shape)
    started = {"init_from": str(base.folder), "use_peft": True, "steps": 1, **shape}
    counts = []
    for batches in (0, 1, 2):
        run = runs.train(
            **started, load_in_8bit=True, quantization_eval_batches=batches
        )
        told = [e["data"] for e in run.events if e["kind"] == "cost_of_few_bits"]
        counts.append(sum(one["tokens"] for one in told))
    assert not counts[0] and 0 < counts[1] < counts[2]


@pytest.mark.covers(
    "PRC-16: --load-in-8bit",
    "PRC-16: --load-in-4bit",
    "PRC-10: quantization_method bnb",
    "PRC-10: quantization_bits 8, 4",
)
@shows("load_in_4bit", "load_in_8bit", "quantization_method", "quantization_bits")
def base(runs: Runs) -> None:
    trained = runs.train(steps=1)
    found: list[set[str]] = []

    def codecs(program: Program, _: Any) -> set[str]:
        return {one.codec for one in stored_pieces(program.network).values()}

    for options in (
        {},
        {"load_in_4bit": True},
        {"load_in_8bit": True},
        {"quantization_method": "bnb"},
        {"quantization_method": "bnb", "quantization_bits": 8},
        {"quantization_method": "fp8"},
        {"quantization_method": "int4"},
        {"quantization_method": "llm_int8"},
    ):
        runs.train(
            seen(codecs, found),
            init_from=str(trained.folder),
            use_peft=True,
            steps=1,
            **options,
        )
    names = ["", "nf4_double", "int8", "nf4_double", "int8", "fp8", "int4", "llm_int8"]
    assert found == [{name} - {""} for name in names]
    losses = [
        runs.train(steps=1, **options).rows[0]["loss"]
        for options in (
            {},
            {"quantization_method": "quanto"},
            {"quantization_method": "quanto", "quantization_bits": 4},
            {"quantization_method": "quanto_dynamic"},
        )
    ]
    exact, eight, four, inputs_too = losses
    assert 0 < abs(eight - exact) < abs(four - exact)
    assert inputs_too not in (exact, eight)
