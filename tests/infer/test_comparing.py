"""`lumina compare`: two models by their answers, and settings by their seeds."""

from __future__ import annotations

import errno
import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infer.networks import tiny, write_run
from infer.test_evaluation_tasks import OWN, as_jsonl
from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.evaluation_tasks.advice import examples_needed
from lumina.infer.evaluation_tasks.comparing import compare_results
from lumina.infer.evaluation_tasks.results import (
    TaskResults,
    result_of,
    write_results,
)
from lumina.infer.evaluation_tasks.saved import read_results
from lumina.infer.evaluation_tasks.task import Example, Outcome, chosen_task
from lumina.measure.significance import (
    bootstrap,
    paired_t_test,
    welch_t_test,
)
from tiny_runs import Runs, story


def results(task: str, values: list[dict[str, Any]], **more: Any) -> TaskResults:
    """What a model would have come to, with these values of its examples."""
    examples = [Example(f"f:{n}", "", None) for n in range(len(values))]
    outcomes = [
        Outcome(one, {"question": f"question {n}", "answer": f"answer {n}"})
        for n, one in enumerate(values)
    ]
    entry = chosen_task(task)
    made = object.__new__(entry)  # the list of words is not read
    found = result_of(made, examples, outcomes, settings={"shots": 0})
    return TaskResults("a model", "cpu", "float32", {task: replace(found, **more)})


def accuracy(values: list[float]) -> TaskResults:
    return results("multiple_choice", [dict.fromkeys(
        ("acc", "acc_norm", "acc_bytes"), value) for value in values])  # fmt: skip


GOOD = [1.0] * 18 + [0.0] * 2
POOR = [1.0] * 6 + [0.0] * 12 + [1.0] * 1 + [0.0]


@pytest.mark.covers(
    "EVL-03: statistical_test t_test",
    "EVL-03: per-metric results",
    "EVL-03: deploy/iterate",
)
def test_a_better_model_is_to_be_deployed_and_a_worse_one_is_not() -> None:
    found = compare_results([accuracy(POOR)], [accuracy(GOOD)])
    [row] = found.rows
    exact = paired_t_test(np.array(POOR), np.array(GOOD))
    assert row.difference == exact and exact.p_value < 0.01
    assert (row.metric, row.baseline, row.candidate) == ("acc", 0.35, 0.9)
    assert (row.verdict, found.advice) == ("better", "deploy")
    back = compare_results([accuracy(GOOD)], [accuracy(POOR)])
    assert (back.rows[0].verdict, back.advice) == ("worse", "iterate")
    flips = found.flips["multiple_choice"]
    assert (flips.both, flips.neither) == (6, 1)
    assert flips.lost == ["f:18"] and len(flips.won) == 12
    strict = compare_results([accuracy(POOR)], [accuracy(GOOD)],
                             confidence_level=0.99999)  # fmt: skip
    assert strict.advice == "iterate" and strict.rows[0].verdict == "no difference"


def test_less_is_better_where_a_metric_says_so() -> None:
    before = results("toxicity", [{"toxic_rate": value} for value in GOOD])
    after = results("toxicity", [{"toxic_rate": value} for value in POOR])
    found = compare_results([before], [after])
    assert found.advice == "deploy" and found.rows[0].difference.difference < 0
    assert found.flips["toxicity"].lost == ["f:18"]


def test_one_metric_that_is_worse_forbids_it_and_holm_counts_all_rows() -> None:
    values = [{"terminology_usage": t, "safety_score": s}
              for t, s in zip(POOR, GOOD, strict=True)]  # fmt: skip
    other = [{"terminology_usage": one["safety_score"],
              "safety_score": one["terminology_usage"]} for one in values]  # fmt: skip
    found = compare_results(
        [results("medical_answers", values)], [results("medical_answers", other)],
        metrics=["terminology_usage", "safety"],
    )  # fmt: skip
    assert [row.verdict for row in found.rows] == ["better", "worse"]
    assert found.advice == "iterate" and "though" in found.reason
    alone = found.rows[0].difference.p_value
    assert found.rows[0].adjusted == pytest.approx(2 * alone)


@pytest.mark.covers("EVL-03: metrics perplexity, accuracy, coherence, safety")
@pytest.mark.parametrize(
    ("metrics", "names"),
    [
        (["perplexity"], ["perplexity", "bits_per_byte"]),
        (["bits_per_byte"], ["bits_per_byte"]),
        ([], ["perplexity"]),
    ],
)
def test_perplexity_is_compared_by_the_bootstrap_of_texts(
    metrics: list[str], names: list[str]
) -> None:
    random = np.random.default_rng(4)
    before, after = [], []
    for _ in range(40):
        tokens, loss = int(random.integers(5, 50)), float(random.normal(3, 0.3))
        better = loss - 0.2 + float(random.normal(0, 0.05))
        for side, value in ((before, loss), (after, better)):
            nats = value * tokens
            side.append({"perplexity": (nats, tokens), "bits_per_byte": (nats, 99)})
    first, second = results("perplexity", before), results("perplexity", after)
    found = compare_results([first], [second], metrics=metrics)
    assert [row.metric for row in found.rows] == names
    row = found.rows[0]
    assert row.difference.test == "paired bootstrap" and row.verdict == "better"
    for one, side in ((row.baseline, first), (row.candidate, second)):
        assert one == side.tasks["perplexity"].figures[row.metric].value
    assert row.difference.low < row.candidate - row.baseline < row.difference.high
    assert found.flips == {} and found.advice == "deploy"


def test_where_nothing_is_sure_the_reason_says_how_many_pairs_would_do() -> None:
    one, two = [1.0, 0.0] * 10, [1.0, 0.0] * 9 + [1.0, 1.0]
    found = compare_results([accuracy(one)], [accuracy(two)])
    effect = paired_t_test(np.array(one), np.array(two)).effect_size
    assert found.advice == "iterate"
    assert f"about {examples_needed(effect, 0.95):,} pairs" in found.reason
    # Cohen, 1988: 32 pairs for an effect of one half (normal approximation: 31.4).
    assert examples_needed(0.5, 0.95) == 32


SEEDS = ([3.10, 3.12, 3.07], [2.95, 3.01, 2.98])


def run_folder(folder: Path, loss: float, seed: int) -> Path:
    """A run as it looks to one who reads its last evaluation."""
    folder.mkdir()
    rows = [
        {"step": 1, "loss": 5.0, "eval_loss": 4.0, "eval_accuracy": 0.1},
        {"step": 2, "loss": 4.0, "eval_loss": loss, "eval_accuracy": 1 / loss},
        {"step": 3, "loss": 3.9},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "config.yaml").write_text(f"seed: {seed}\n")
    return folder


@pytest.fixture
def seeds(tmp_path: Path) -> tuple[list[str], list[str]]:
    sides = tuple(
        [str(run_folder(tmp_path / f"{side}-{n}", loss, n)) for n, loss in
         enumerate(losses)]
        for side, losses in zip("ab", SEEDS, strict=True)
    )  # fmt: skip
    return sides[0], sides[1]


def compared(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["compare", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.covers("EVL-11")
def test_settings_are_compared_over_their_seeds(
    seeds: tuple[list[str], list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--baseline", *seeds[0], "--candidate", *seeds[1]]
    one, two = (np.array(side) for side in SEEDS)
    exact = welch_t_test(one, two)
    found = compared(capsys, *words)
    [row] = found["rows"]
    assert row["metric"] == "eval_loss" and row["verdict"] == "better"
    assert row["baseline"] == pytest.approx(one.mean())
    assert row["difference"]["p_value"] == pytest.approx(exact.p_value)
    assert row["difference"]["effect_size"] == pytest.approx(exact.effect_size)
    assert found["advice"] == "deploy"
    drawn = compared(capsys, *words, "--statistical-test", "bootstrap")["rows"][0]
    assert drawn["difference"]["low"] == pytest.approx(bootstrap(one, two).low)
    pairs = compared(capsys, *words, "--paired")["rows"][0]["difference"]
    assert pairs["p_value"] == pytest.approx(paired_t_test(one, two).p_value)
    both = compared(capsys, *words, "--metrics", "eval_loss", "accuracy")["rows"]
    assert [r["metric"] for r in both] == ["eval_loss", "eval_accuracy"]
    assert both[1]["verdict"] == "better" and both[1]["difference"]["difference"] > 0


@pytest.mark.parametrize(
    ("first", "second", "more", "code", "said"),
    [
        ([0], [0], [], 2, "several runs with different seeds"),
        ([0, 1], [0], [], 2, "two or more on each side"),
        ([0, 1], [1, 0], ["--paired"], 2, "the seed 0"),
        ([0, 1], [0, 1, 2], ["--paired"], 2, "no pairs"),
        ([0, 1], [0, 1], ["--confidence-level", "1"], 2, "0.5 to below 1"),
        ([0, 1], [0, 1], ["--metrics", "acc"], 2, "no task has the metrics acc"),
        ([0, 1], [0, 1], ["--shots", "2"], 2, "--shots does nothing"),
        ([0], [], [], 2, "one is not named"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    first: list[int], second: list[int], more: list[str], code: int, said: str,
    seeds: tuple[list[str], list[str]], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = ["--baseline", *(seeds[0][n] for n in first)]
    if second:
        words += ["--candidate", *(seeds[1][n] for n in second)]
    assert main(["compare", *words, *more]) == code
    assert said in capsys.readouterr().err


def test_results_that_were_asked_otherwise_are_refused() -> None:
    one = accuracy(GOOD)
    for other, said in (
        (results("coherence", [{"coherence": 1.0}] * 3), "no task"),
        (accuracy(GOOD[:-1]), "other questions"),
        (results("multiple_choice", [{"acc": x} for x in GOOD], sha256="x"), "other q"),
        (results("multiple_choice", [{"acc": x} for x in GOOD], settings={"shots": 5}),
         "another shots"),
    ):  # fmt: skip
        with pytest.raises(LuminaError, match=said):
            compare_results([one], [other])
    with pytest.raises(LuminaError, match="pairs anyway"):
        compare_results([one], [one], paired=True)


def test_files_are_read_as_they_were_written(tmp_path: Path) -> None:
    nats = [{"perplexity": (3.0, 2), "bits_per_byte": (3.0, 9)}] * 2
    for number, one in enumerate((accuracy(GOOD), results("perplexity", nats))):
        path = tmp_path / f"{number}.json"
        write_results(one, path)
        again = read_results(path)
        assert again.to_dict() == one.to_dict()
        with pytest.raises(LuminaError, match="E005"):
            write_results(one, path)
    for text, said in (("{}", "format"), ("[1]", "no file of results"), ("x", "E101"),
                       ('{"format": 99}', "99")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(LuminaError, match=said) as refused:
            read_results(path)
        assert refused.value.code == "E101"
    with pytest.raises(LuminaError, match="E104"):
        read_results(tmp_path / "gone.json")


def test_results_are_written_where_files_cannot_have_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(source: object, target: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", none)
    path, one = tmp_path / "found.json", accuracy(GOOD)
    write_results(one, path)
    assert read_results(path).to_dict() == one.to_dict()
    with pytest.raises(LuminaError, match="E005"):
        write_results(accuracy(GOOD[:-1]), path)
    assert read_results(path).to_dict() == one.to_dict()
    assert [file.name for file in tmp_path.iterdir()] == ["found.json"]


@pytest.mark.covers("EVL-02: comparison and error analysis")
def test_two_models_are_compared_on_the_same_questions(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = Tokenizer.train([story(40)], 300)
    folders = [
        str(write_run(tmp_path / f"m{n}",
                      {1: tiny(tokenizer.vocab_size, seed=n)}, tokenizer))
        for n in (5, 6)
    ]  # fmt: skip
    records = [
        {**OWN[1], "question": f"The dog number {n} went", "choices": ["wood", "hill"],
         "answer": n % 2}
        for n in range(12)
    ]  # fmt: skip
    data = as_jsonl(tmp_path / "own.jsonl", records)
    asked = ["--tasks", f"multiple_choice={data}"]
    found = compared(capsys, "--baseline", folders[0], "--candidate", folders[1],
                     *asked)  # fmt: skip
    files, saved = [], []
    for number, folder in enumerate(folders):
        out = tmp_path / f"{number}.json"
        assert main(["evaluate", folder, *asked, "--output", str(out),
                     "--errors", "1"]) == 0  # fmt: skip
        shown = capsys.readouterr().out
        files.append(str(out))
        saved.append(
            json.loads(out.read_text())["tasks"]["multiple_choice"]["examples"]
        )
        # The wrong answer that it was surest of, with what is right.
        wrong = [e for e in saved[-1] if e["chosen"] != e["right"]]
        logs = [e["log_likelihoods"] for e in wrong]
        apart = [abs(a - b) for a, b in logs]
        surest = wrong[int(np.argmax(apart))]
        name = f"multiple_choice {surest['id']}"
        assert f"{name}\n  question  {surest['question']!r}\n  chosen " in shown
        assert shown.count("chosen ") == 1
    again = compared(capsys, "--baseline", files[0], "--candidate", files[1])
    assert again == found
    acc = np.array([[e["values"]["acc"] for e in side] for side in saved])
    exact = paired_t_test(acc[0], acc[1])
    assert found["rows"][0]["difference"]["p_value"] == pytest.approx(exact.p_value)
    lost = [e["id"] for e, a, b in zip(saved[0], *acc, strict=True) if a > b]
    assert found["flips"]["multiple_choice"]["lost"] == lost
    assert main(["compare", "--baseline", files[0], "--candidate", files[1],
                 "--errors", "2"]) == 0  # fmt: skip
    text = capsys.readouterr().out
    assert text.count("\n  right     ") == min(len(lost), 2)
    assert f"p is Holm's, of all rows together; by {exact.test}" in text
    assert math.isfinite(found["rows"][0]["adjusted"])


@pytest.mark.thorough
@pytest.mark.covers("EVL-11")
def test_real_runs_of_several_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = Runs(tmp_path, monkeypatch)
    sides = [
        [str(runs.train(seed=seed, learning_rate=rate, steps=6, eval_fraction=0.2,
                        eval_batches=4).folder) for seed in (1, 2, 3)]
        for rate in (1e-5, 1e-2)
    ]  # fmt: skip
    words = ["--baseline", *sides[0], "--candidate", *sides[1]]
    found = compared(capsys, *words, "--paired")
    [row] = found["rows"]
    assert row["metric"] == "eval_loss" and row["verdict"] == "better"
    assert found["advice"] == "deploy"
