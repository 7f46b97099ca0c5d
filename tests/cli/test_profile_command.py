"""`lumina profile training`, `data` and `memory` on a small model, and their files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from lumina.cli.main import main
from lumina.train.profiling import session, training

SMALL = [
    "--no-use-moe", "--hidden-size", "32", "--intermediate-size", "64",
    "--num-layers", "2", "--num-heads", "2", "--num-kv-heads", "1",
    "--vocab-size", "320", "--tokenizer-vocab-size", "300", "--seq-length", "64",
    "--batch-size", "2", "--global-batch-size", "4", "--precision", "fp32",
    "--device", "cpu",
]  # fmt: skip


def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "profile.json").read_text())  # type: ignore[no-any-return]


@pytest.mark.covers("DIA-07")
def test_a_training_is_profiled_by_part_and_by_operation_with_a_trace(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "profile"
    words = ["--profile-training", "--steps", "2", "--warm-up", "1"]
    words += ["--trace-steps", "1", "--train-data", str(tiny_corpus)]
    assert main([*words, *SMALL, "--output", str(out)]) == 0
    text = capsys.readouterr().out
    found = figures(out)
    assert len(found["steps"]) == 2 and found["traced"] == 1
    parts = {row["name"]: row["median"] for row in found["phases"]}
    assert parts["forward"] > 0 and parts["backward"] > 0 and parts["optimizer"] > 0
    for step in found["steps"]:
        assert sum(step["parts"].values()) == pytest.approx(step["whole"], rel=0.02)
    assert found["operations"][0]["name"] in text
    assert sum(one["share"] for one in found["operations"]) == pytest.approx(1)
    assert "what to try:" in text and "OMP_NUM_THREADS" in text
    with gzip.open(out / training.TRACE) as file:
        events = json.load(file)["traceEvents"]
    spans = [e for e in events if str(e.get("name")).startswith("lumina: ")]
    spans = [e for e in spans if e["cat"] == "user_annotation"]
    spans.sort(key=lambda event: event["ts"])
    names = [event["name"].split()[1] for event in spans]
    assert names == ["data", *2 * ["forward", "backward"], "optimizer"]
    end = spans[-1]["ts"] + spans[-1]["dur"]
    products = [event for event in events if event.get("name") == "aten::mm"]
    assert products and all(event["ts"] < end for event in products)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["profile"]
    assert main([*words, *SMALL, "--output", str(out)]) == 2
    assert "E002" in capsys.readouterr().err


@pytest.mark.covers("DIA-06")
def test_data_loading_is_profiled_stage_by_stage(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "profile"
    words = ["--profile-data-loading", "--steps", "3", "--train-data", str(tiny_corpus)]
    words += [*SMALL, "--step-seconds", "0.001", "--output", str(out)]
    assert main(words) == 0
    text = capsys.readouterr().out
    found = figures(out)
    stages = {stage["name"]: stage for stage in found["stages"]}
    order = ["read", "make tokens", "pack", "prepare all of it", "make batches", "wait"]
    assert list(stages) == order
    size = sum(path.stat().st_size for path in tiny_corpus.iterdir())
    assert stages["read"]["amount"] == pytest.approx(size / 1e6, rel=0.02)
    assert stages["make tokens"]["amount"] == stages["pack"]["amount"] > 1000
    assert stages["make batches"]["amount"] == 3 * 4 * 64
    assert len(found["waited_seconds"]) == 3 and found["step_seconds"] == 0.001
    assert "what to try:" in text and "make tokens" in text


@pytest.mark.covers("DIA-08")
def test_memory_is_profiled_beside_the_plan_with_its_allocations(
    tiny_corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "profile"
    words = ["--profile-memory", "--track-allocations", "--steps", "2"]
    words += ["--train-data", str(tiny_corpus), *SMALL, "--output", str(out)]
    assert main(words) == 0
    text = capsys.readouterr().out
    found = figures(out)
    weights, states, rest = found["parts"]
    assert weights["planned"] == weights["measured"] > 0
    assert states["measured"] == pytest.approx(states["planned"], rel=0.01)
    assert rest["measured"] == found["peak"] - weights["measured"] - states["measured"]
    assert [phase["name"] for phase in found["phases"]] == [
        "forward", "backward", "optimizer",
    ]  # fmt: skip
    assert found["peak"] == max(phase["peak"] for phase in found["phases"])
    assert found["tracked_peak"] == sum(one["size"] for one in found["allocations"])
    # Two rows of 64 tokens in float32, of 320 logits each, are among them.
    assert found["tracked_peak"] > 2 * 64 * 320 * 4
    assert found["allocations"][0]["where"] in text and "planned" in text


@pytest.mark.thorough
def test_ctrl_c_leaves_what_was_measured(
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    step = session.Session.step

    def interrupted(self: Any, *given: Any) -> Any:
        if self.done == 3:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *given)

    monkeypatch.setattr(session.Session, "step", interrupted)
    out = tmp_path / "profile"
    words = ["profile", "training", "--steps", "50", "--warm-up", "1", *SMALL]
    words += ["--train-data", str(tiny_corpus), "--output", str(out)]
    assert main(words) == 130
    found = figures(out)
    assert found["interrupted"] and len(found["steps"]) == 3 and not found["traced"]
    assert "3 steps on" in capsys.readouterr().out


REFUSED = [
    (["--resume", "runs/x"], "E002"),
    (["--nproc", "2"], "E002"),
    (["--warm-up", "-1"], "E005"),
]


@pytest.mark.parametrize(("words", "code"), REFUSED)
def test_what_cannot_be_profiled_is_refused(
    words: list[str],
    code: str,
    tiny_corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--train-data", str(tiny_corpus)]
    assert main(["profile", "training", *data, *SMALL, *words]) == 2
    assert capsys.readouterr().err.splitlines()[0].startswith(code)
    assert not list(tmp_path.iterdir())
