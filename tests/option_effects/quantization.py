"""Options of weights in few bits."""

from __future__ import annotations

from typing import Any

import pytest

from lumina.assemble.program import Program
from lumina.model.stored import stored_pieces
from option_effects import shows
from tiny_runs import Runs, seen


@pytest.mark.covers("PRC-16: --load-in-8bit", "PRC-16: --load-in-4bit")
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
    ):
        runs.train(
            seen(codecs, found),
            init_from=str(trained.folder),
            use_peft=True,
            steps=1,
            **options,
        )
    names = ["", "nf4_double", "int8", "nf4_double", "int8", "fp8", "int4"]
    assert found == [{name} - {""} for name in names]
    losses = [
        runs.train(steps=1, **options).rows[0]["loss"]
        for options in (
            {},
            {"quantization_method": "quanto"},
            {"quantization_method": "quanto", "quantization_bits": 4},
        )
    ]
    exact, eight, four = losses
    assert 0 < abs(eight - exact) < abs(four - exact)
