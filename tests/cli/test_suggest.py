"""`lumina suggest`."""

from __future__ import annotations

import json

import pytest

from lumina.cli.main import main


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
