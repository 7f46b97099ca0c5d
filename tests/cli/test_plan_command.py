"""`lumina plan`: parameters, memory and time without a training."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from forked import run_forked
from lumina.cli.main import main
from lumina.config import Config
from lumina.plan.count import count_parameters
from lumina.plan.shape import resolve_spec
from tiny_runs import write_conversations

T4 = ["--hardware-profile", "t4", "--preset", "dense_125m"]


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> dict:  # type: ignore[type-arg]
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)  # type: ignore[no-any-return]


@pytest.mark.covers("DIA-03")
def test_parameters_are_estimated_and_in_detail_tensor_by_tensor(
    capsys: pytest.CaptureFixture[str],
) -> None:
    counts = count_parameters(resolve_spec(Config(preset="debug")))
    assert main(["--estimate-parameters", "--preset", "debug"]) == 0
    short = capsys.readouterr().out
    assert f"{counts.total:,}" in short and f"{counts.experts:,}" in short
    assert "Memory" not in short and "feedforward.down" not in short
    words = ["--estimate-parameters", "--detailed", "--preset", "debug"]
    assert main(words) == 0
    row = next(r for r in capsys.readouterr().out.splitlines() if ".down" in r)
    assert "4 x 128 x 384" in row and "393,216" in row and "196,608" in row
    found = facts(capsys, *words)
    assert sum(one["size"] for one in found["tensors"]) == counts.total
    assert sum(one["used"] for one in found["tensors"]) == counts.active


@pytest.mark.covers("DIA-04")
def test_the_time_on_hardware_that_is_not_present(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--estimate-time", "--preset", "dense_125m", "--steps", "200"]
    slow = facts(capsys, *words, "--hardware-profile", "a100-80gb")
    fast = facts(capsys, *words, "--hardware-profile", "h200")
    assert slow["machine"]["device_name"] == "NVIDIA A100-SXM4-80GB"
    ratio = slow["time"]["likely"] / fast["time"]["likely"]
    assert ratio == pytest.approx(989 / 312, rel=0.05)
    several = facts(capsys, *words, "--hardware-profile", "h200", "--devices", "4")
    assert several["plan"]["world_size"] == 4
    assert fast["time"]["likely"] / 4 < several["time"]["likely"]
    assert several["time"]["likely"] < fast["time"]["likely"]
    assert main([*words, "--hardware-profile", "a100-80gb"]) == 0
    text = capsys.readouterr().out
    assert "all steps" in text and "assumed" in text and "200" in text
    given = facts(capsys, *words, "--hardware-profile", "h200", "--efficiency", "0.25")
    work = given["plan"]["flops_per_token"] * 256 * 2048
    assert given["time"]["slow"] == pytest.approx(work / (989e12 * 0.25))


@pytest.mark.covers("DIA-05")
def test_memory_is_analysed_with_what_lowers_it_and_other_layouts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--analyze-memory", "--detailed", *T4]) == 0
    text = capsys.readouterr().out
    row = next(line for line in text.splitlines() if "adamw_8bit" in line)
    assert row.split()[:3] == ["optimizer", "942.9", "MiB"]
    found = facts(capsys, "--analyze-memory", "--detailed", *T4)
    chosen = [one for one in found["choices"] if one["chosen"]]
    assert [one["bound"] for one in chosen] == [found["memory"]["bound"]]
    assert found["machine"]["memory_bytes"] == int(14.5 * 2**30)
    sizes = {(c["gradient_checkpointing"], c["micro_batch_size"]): c["bound"]
             for c in found["choices"]}  # fmt: skip
    assert sizes["full", 8] < sizes["selective", 8] < sizes["none", 8]
    assert not all(one["fits"] for one in found["choices"])


def test_a_plan_with_data_knows_its_length(
    tiny_corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "--train-data", str(tiny_corpus), "--epochs", "2"]
    found = facts(capsys, *words, "--hardware-profile", "h100", "--preset", "debug")
    assert found["plan"]["device"] == "cuda"
    assert found["plan"]["epochs"] == 2
    assert found["time"]["steps"] == found["plan"]["steps"] < 100
    once = "once with <|endoftext|>"
    assert found["begins_and_ends"] == {"texts": f"begin {once}, and end {once}"}


@pytest.mark.parametrize("loading", ["memory", "streaming"])
def test_a_plan_says_how_conversations_begin_and_end(
    loading: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(write_conversations(tmp_path / "talk.jsonl"))
    words = ["plan", "--train-data", data, "--preset", "debug", "--steps", "3"]
    assert main([*words, "--data-loading", loading, "--show", "data"]) == 0
    printed = capsys.readouterr().out
    [told] = [x for x in printed.splitlines() if x.startswith("  conversations")]
    assert "written with Lumina's own markers" in told
    assert "the begin token stands in the first one once" in told
    assert "the last token is" in told


def test_profiles_are_listed_with_their_sources(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["plan", "--hardware-profile", "list"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if "b200" in x)
    assert "178.3" in line and "8,000" in line and "2,250" in line and "data" in line


REFUSED = [
    (["--hardware-profile", "abacus"], "E005", "a100-80gb"),
    (["--devices", "0"], "E005", "1 or more"),
    (["--efficiency", "1.5"], "E005", "at most 1"),
    (["--hardware-profile", "m1", "--efficiency", "0.5"], "E003", "not known"),
]


@pytest.mark.parametrize(("words", "code", "says"), REFUSED)
def test_what_cannot_be_planned_is_refused(
    words: list[str], code: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--preset", "debug", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith(code) and says in error


@pytest.mark.covers("MEM-19: KV")
def test_the_plan_says_what_generation_keeps(capsys):
    shape = ["--hidden-size", "64", "--num-layers", "2", "--num-heads", "4"]
    shape += ["--num-kv-heads", "2", "--seq-length", "1024", "--vocab-size", "512"]
    shape += ["--no-use-moe", "--precision", "fp32", "--device", "cpu"]
    assert main(["plan", *shape, "--show", "generation"]) == 0
    said = capsys.readouterr().out
    # 2 layers, a key and a value, 2 heads of 16: 128 numbers a token.
    assert "512.0 KiB  a row of 1,024 tokens" in said
    assert "int8" in said and "160.0 KiB" in said  # 16 bytes and a scale


SMALL = [
    "plan", "--preset", "debug", "--seq-length", "64", "--batch-size", "1",
    "--num-layers", "1", "--hidden-size", "32", "--num-experts", "2",
    "--moe-intermediate-size", "32", "--intermediate-size", "64",
]  # fmt: skip


@pytest.mark.covers("MEM-19: validated against measurement")
def test_a_trace_stands_beside_the_estimate(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from lumina.train.planned_memory import trace

    words = [*SMALL, "--hardware-profile", "h200", "--trace"]
    found = facts(capsys, *words)
    traced = found["traced"]
    # It takes seconds, and the same one is to be shown.
    again = trace.Traced(**traced)
    monkeypatch.setattr(trace, "trace", lambda plan, **_: again)
    assert set(traced["allocated"]) == {
        "forward",
        "backward",
        "optimizer",
        "evaluation",
    }
    assert max(traced["allocated"].values()) <= found["memory"]["bound"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "A step's memory" in told and "traced     backward" in told
    assert "optimizer states" in told and "assumed: " in told


def test_what_is_not_traced_is_said_and_the_estimate_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["plan", "--preset", "trm_sudoku", "--hardware-profile", "h200", "--trace"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "not traced, because puzzles have batches of their own" in told
    assert "estimated" in told and "traced     " not in told


@pytest.mark.parametrize(
    "run",
    [
        pytest.param(run_forked, id="forked"),
        pytest.param(subprocess.run, id="fresh", marks=pytest.mark.thorough),
    ],
)
def test_steps_are_measured_once_and_remembered(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    run: Any,
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", run)
    words = [*SMALL, "--global-batch-size", "1", "--device", "cpu", "--measure"]
    first = facts(capsys, *words)["measured"]
    assert first["resident"] > 100e6 and not first["before"]
    # Another process would measure another number.
    assert facts(capsys, *words)["measured"] == first | {"before": True}
    longer = [*words, "--seq-length", "128"]
    other = subprocess.CompletedProcess([], 0, stdout='{"resident": 123}\n')
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: other)
    assert facts(capsys, *longer)["measured"] == first | {"resident": 123}


def test_hardware_that_is_described_cannot_be_measured(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*SMALL, "--hardware-profile", "h200", "--measure"]) != 0
    assert "E002" in capsys.readouterr().err
