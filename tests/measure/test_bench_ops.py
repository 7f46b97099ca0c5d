"""`lumina bench ops`: errors, floors and what is said of versions that do not run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lumina.cli.main import main
from lumina.measure.bench.ceilings import Ceilings, interleaved
from lumina.measure.bench.ops.measure import measure_op
from lumina.measure.bench.ops.op import OPS, Op, Shape, Version, chosen_op

TINY = Shape(2, 16, 32, 4, 2, 64, 64, 4, 2)
CEILINGS = Ceilings(1e12, 1e9, "float32", 8, 8)


def measured(op: Op, dtype: torch.dtype = torch.float32) -> dict:
    found = measure_op(op, TINY, "cpu", dtype, CEILINGS, rounds=1)
    return {one["version"]: one for one in found["versions"]} | {"facts": found}


@pytest.mark.parametrize("name", OPS.known())
def test_every_version_computes_what_the_reference_does(name: str) -> None:
    op = chosen_op(name)
    found = measured(op)
    ran = [v for v in op.versions if not found[v]["problem"]]
    rounded = name in ("low_bits", "float8")
    for version in ("reference", *ran):
        one = found[version]
        assert one["error"] < (0.2 if rounded else 1e-5), (version, one)
        assert set(one["gradient_errors"]) == set(op.differentiated)
        for gradient, slope in one["slopes"].items():
            assert abs(slope - 1) < (0.05 if rounded else 1e-5), (version, gradient)
        assert one["seconds"] > 0
        floor = found["facts"]["floor_seconds"]
        assert one["share"] == pytest.approx(floor / one["seconds"])
    assert found["reference"]["error"] == 0
    if rounded and ran:
        assert all(found[v]["error"] > 1e-4 for v in ran)


def test_in_sixteen_bits_errors_are_those_of_sixteen_bits() -> None:
    found = measured(chosen_op("attention"), torch.bfloat16)
    assert 1e-4 < found["sdpa"]["error"] < 2e-2


def test_a_wrong_version_is_seen_by_its_error_and_its_slope() -> None:
    norm = chosen_op("norm")

    def wrong(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        found = norm.versions["fused"].run(x=x, weight=weight, eps=eps)
        return (found * 1.01).to(x.dtype)

    found = measured(replace(norm, versions={"wrong": Version(wrong)}))["wrong"]
    assert found["error"] == pytest.approx(0.01, rel=1e-3)
    assert found["slopes"]["x"] == pytest.approx(1.01, rel=1e-4)


def test_an_update_in_place_is_compared_by_what_it_leaves() -> None:
    adamw = chosen_op("adamw")

    def nothing(**given: torch.Tensor) -> None:
        pass

    found = measured(replace(adamw, versions={"nothing": Version(nothing)}))
    assert found["nothing"]["error"] > 0.01
    assert found["reference"]["backward_seconds"] is None


def test_the_floor_is_the_longer_of_products_and_bytes() -> None:
    assert Ceilings(100.0, 10.0, "float32", 1, 1).floor(1000, 50) == 10
    assert Ceilings(100.0, 10.0, "float32", 1, 1).floor(100, 50) == 5


def test_versions_take_turns_in_an_order_that_alternates() -> None:
    calls: list[str] = []
    runs = {name: lambda name=name: calls.append(name) for name in "ab"}
    interleaved(runs, "cpu", 2)
    assert "".join(calls) == "ab" + "ab" + "ba"


def test_the_command_prints_a_table_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "ops.json"
    words = ["bench", "ops", "router", "norm", "--device", "cpu", "--rounds", "1"]
    words += ["--hidden", "32", "--length", "16", "--out", str(out)]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "needs a CUDA device" in printed and "TFLOP/s" in printed
    facts = json.loads(out.read_text())
    assert [op["op"] for op in facts["ops"]] == ["router", "norm"]
    assert facts["shape"]["hidden"] == 32 and facts["ceilings"]["bandwidth"] > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nothing"], "there is no op 'nothing'"),
        (["norm", "--rounds", "0"], "rounds is 0"),
        (["norm", "--heads", "3"], "heads divide hidden"),
        (["experts", "--top-k", "9"], "top-k is at most experts"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    words: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "ops", "--device", "cpu", *words]) == 2
    told = capsys.readouterr().err
    assert "E005" in told and says in told
