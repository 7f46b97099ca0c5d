"""`lumina bench adaptive`, as it is typed."""

from __future__ import annotations

import json

import pytest

from lumina.cli.main import main


def test_scenarios_are_written_and_come_again(tmp_path, capsys):
    command = ["bench", "adaptive", "generate", "--out", str(tmp_path)]
    assert main(command) == 0
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(command) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first
    assert set(first) == {
        "benchmark.json",
        "text.txt",
        "development.jsonl",
        "held-out.jsonl",
    }
    assert json.loads(first["benchmark.json"])["text"] == "invented"
    assert "20261129" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["score"], "competent arm has no results"),
        (["run"], "add --arm competent"),
        (["run", "--arm", "best"], "choose among naive, competent"),
        (["run", "--arm", "naive", "--trainer", "mine"], "lumina, transformers"),
        (["run", "--arm", "naive", "--half", "both"], "development, held-out"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_what_is_missing_is_said(words, said, tmp_path, capsys):
    assert main(["bench", "adaptive", *words, "--out", str(tmp_path)]) != 0
    assert said in capsys.readouterr().err


def test_scores_are_printed_and_written(tmp_path, capsys):
    out = str(tmp_path / "b")
    main(["bench", "adaptive", "generate", "--out", out])
    row = {
        "key": "d-clean-000", "status": "done", "loss": 2.5, "tokens": 81920,
        "budget": 81920, "seconds": 4.0, "curve": [[81920, 160, 2.5]], "faults": [],
        "decisions": [], "attempts": [{}], "notes": {},
    }  # fmt: skip
    folder = tmp_path / "b" / "results"
    folder.mkdir()
    for arm, loss in (("competent", 2.5), ("orchestrator", 2.4)):
        path = folder / f"development-{arm}-lumina.jsonl"
        path.write_text(json.dumps(row | {"loss": loss}) + "\n")
    files = ["--json", str(tmp_path / "s.json"), "--plots", str(tmp_path / "plots")]
    assert main(["bench", "adaptive", "score", "--out", out, *files]) == 0
    said = capsys.readouterr().out
    assert (
        "| orchestrator | clean | 1 (159 missing) | 0 (0.0%) | 95.0% | 0.9600" in said
    )
    assert "| clean loss at most 0.3% higher |" in said
    scores = json.loads((tmp_path / "s.json").read_text())
    assert {(one["arm"], one["group"]) for one in scores} == {
        (arm, group)
        for arm in ("competent", "orchestrator")
        for group in ("clean", "all")
    }
    assert (tmp_path / "plots" / "reached-clean.svg").exists()
