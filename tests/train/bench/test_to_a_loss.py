"""Seconds to a loss: what is compared, and that both sides learn from the same rows."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "to_a_loss.py"


def load() -> Any:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("to_a_loss", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["to_a_loss"] = module
    spec.loader.exec_module(module)
    return module


to_a_loss = load()


def run(first_step, *losses, every=10):
    """A run with an evaluation every ten seconds after its first step."""
    curve = [
        (first_step + every * (i + 1), loss, i + 1) for i, loss in enumerate(losses)
    ]
    return {"first_step": first_step, "curve": curve}


def test_the_loss_is_the_lowest_that_all_runs_reach():
    runs = {
        "lumina": {0: run(5, 5.0, 4.0, 3.0), 1: run(5, 4.4, 4.1, 3.9)},
        "trainer": {0: run(9, 6.0, 5.0, 4.5), 1: run(8, 6.0, 4.6, 4.7), 2: run(1, 1.0)},
    }
    found = to_a_loss.compared(runs, None)
    # The third seed has one side alone, so that its loss of 1.0 counts for nothing.
    assert found["seeds"] == [0, 1] and found["loss"] == 4.6
    assert found["contenders"]["lumina"]["whole"] == [25, 15]
    trainer = found["contenders"]["trainer"]
    assert trainer["whole"] == [39, 28] and trainer["steps"] == [30, 20]
    assert trainer["steps_over_lumina"] == [1.5, 2.0]
    assert trainer["steps_median"] == 1.75
    assert trainer["whole_over_lumina"] == pytest.approx([39 / 25, 28 / 15])


def test_a_side_that_does_not_come_so_low_has_no_time():
    runs = {"lumina": {0: run(5, 5.0, 4.0)}, "trainer": {0: run(9, 6.0, 5.0)}}
    found = to_a_loss.compared(runs, 4.5)
    assert found["named_beforehand"]
    trainer = found["contenders"]["trainer"]
    assert trainer["whole"] == [None] and "whole_median" not in trainer
    assert to_a_loss.compared({"lumina": {}, "trainer": {}}, None) == {}


def test_a_line_that_is_being_written_waits(tmp_path):
    file = tmp_path / "metrics.jsonl"
    assert to_a_loss.complete_rows(file) == []
    file.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in to_a_loss.complete_rows(file)] == [1, 2]


@pytest.mark.thorough
def test_the_trainer_takes_its_loss_from_labels_that_are_shifted_already(tmp_path):
    transformers = pytest.importorskip("transformers")
    size = to_a_loss.SIZES["tiny"] | {"hidden": 16, "length": 8, "vocab": 30}
    facts = {"vocab": 32, "rope_theta": 10000.0, "norm_eps": 1e-5, "init_std": 0.02}
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(to_a_loss.shape_of(size, facts))
    drawn = np.random.default_rng(0)
    ids = drawn.integers(0, 30, (2, 9)).astype(np.int32)
    np.save(tmp_path / "ids.npy", ids[:, :-1])
    np.save(tmp_path / "labels.npy", ids[:, 1:])
    rows = to_a_loss.Rows(tmp_path / "ids.npy", tmp_path / "labels.npy")
    batch = {k: torch.stack([rows[i][k] for i in range(2)]) for k in rows[0]}
    out = model(**batch)
    labels = torch.from_numpy(ids[:, 1:]).long()
    expected = torch.nn.functional.cross_entropy(
        out.logits.reshape(-1, 32), labels.reshape(-1)
    )
    assert len(rows) == 2 and torch.allclose(out.loss, expected)


@pytest.mark.slow
def test_both_sides_train_to_the_end_and_a_second_call_repeats_nothing(
    tmp_path, monkeypatch, capsys
):
    pytest.importorskip("accelerate")
    books = tmp_path / "books"
    books.mkdir()
    for number in range(8):
        text = f"Chapter {number}. The hare ran and the tortoise walked. " * 60
        (books / f"{number}.txt").write_text(text)
    work, out = tmp_path / "work", tmp_path / "out.json"
    words = (
        f"to_a_loss --data {books} --work {work} --out {out} --size tiny --seeds 3 "
        "--contenders lumina trainer"
    )
    monkeypatch.setattr(sys, "argv", words.split())
    to_a_loss.main()
    first = json.loads(out.read_text())
    for found in first["runs"].values():
        steps = [step for _, _, step in found["3"]["curve"]]
        losses = [loss for _, loss, _ in found["3"]["curve"]]
        assert steps == [2, 4, 6] and losses[-1] < losses[0] < 6
    assert first["compared"]["seeds"] == [3]
    told = capsys.readouterr().out
    assert "lumina 3: first step" in told and "trainer 3: first step" in told
    to_a_loss.main()
    assert json.loads(out.read_text())["runs"] == first["runs"]
    assert "first step after" not in capsys.readouterr().out
