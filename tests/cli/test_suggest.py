"""`lumina suggest`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.state.experience.store import ExperienceStore
from remembered import a_record


@pytest.mark.covers("TRN-17", "PRE-14")
def test_starting_points_of_a_configuration(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "suggest",
        "--preset",
        "debug",
        "--vocab-size",
        "1000",
        "--batch-size",
        "2",
    ]
    assert main([*words, "--learning-rate", "3e-3", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["table"]["learning_rate"] == 3e-4
    assert facts["tokens"] == 20 * facts["parameters_used"]
    assert "far from the 0.0003" in facts["advice"][0]
    batches = [one["batch_tokens"] for one in facts["laws"] if one["batch_tokens"]]
    rows = [max(1, round(tokens / facts["seq_length"])) for tokens in batches]
    assert facts["global_batch_size"] == rows
    assert facts["grad_accum"] == [
        max(1, round(tokens / facts["seq_length"] / 2)) for tokens in batches
    ]
    assert main([*words, "--purpose", "finetune"]) == 0
    text = capsys.readouterr().out
    assert "--learning-rate 0.0001" in text and "OUTSIDE" in text
    assert "arXiv:2401.02954" in text and "advice" not in text
    assert main([*words, "--tokens", "0"]) == 2
    assert "1 or more" in capsys.readouterr().err


@pytest.mark.covers("PRE-15", "PRE-16", "PRE-17")
def test_the_tables_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["suggest", "--tables"]) == 0
    text = capsys.readouterr().out
    for words in ("RTX 3090", "16384", "100000", "1 then 3 then 5", "6e-05", "b30"):
        assert words in text


@pytest.mark.covers("ORC-19")
def test_start_values_of_earlier_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "memory.sqlite"
    words = ["suggest", "--preset", "debug", "--no-use-moe", "--experience", str(file)]
    assert main([*words, "--json"]) == 0
    kind = json.loads(capsys.readouterr().out)["earlier_runs"]["kind"]
    for number in range(6):
        rate = (1e-3, 2e-3)[number % 2]
        options = a_record().options | {"learning_rate": rate}
        made = a_record(number, kind=kind, options=options, eval_loss=4 - 100 * rate)
        ExperienceStore(file).add((made, []))
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "--learning-rate 0.002  --warmup-ratio 0.1" in said
    assert "run-1, run-3, run-5" in said or "run-5, run-3, run-1" in said
    file.write_text("not a store")
    assert main(words) == 0
    assert "no experience store" in capsys.readouterr().out
