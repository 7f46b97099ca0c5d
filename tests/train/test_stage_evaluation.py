"""What a stage did to what earlier stages had learned."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina.train.stage_evaluation import evaluated, stages_of
from tiny_runs import Runs, story, write_conversations


def rows(*each: tuple[int, dict[str, float], str]) -> list[dict[str, float]]:
    """(step, held-out loss of sources, the source that the step trains on)."""
    return [
        {"step": step, f"source.{trained}.loss": 1.0}
        | {f"source.{name}.eval_loss": loss for name, loss in losses.items()}
        for step, losses, trained in each
    ]


FOUND = rows(
    (1, {"a": 9.0, "b": 9.0}, "a"),
    (2, {"a": 2.0, "b": 5.0}, "a"),
    (3, {"a": 1.5, "b": 3.0}, "b"),
    (4, {}, "c"),
    (5, {"a": 2.5, "b": 2.75, "c": 1.0}, "c"),
)
BEGINS = [("one", 0), ("two", 2), ("three", 3)]


@pytest.mark.covers("EVL-07")
def test_forgetting_is_from_the_best_and_transfer_from_the_end_of_the_own_stage() -> (
    None
):
    stages = stages_of(FOUND, BEGINS, ("a", "b", "c"))
    assert [(one.name, one.step, one.trained) for one in stages] == [
        ("one", 2, ("a",)), ("two", 3, ("b",)), ("three", 5, ("c",)),
    ]  # fmt: skip
    found = evaluated(stages)
    assert set(found.sources) == {"a", "b"}, "the newest stage trains on c"
    a, b = found.sources["a"], found.sources["b"]
    assert (a.stage, a.then, a.now) == ("one", 2.0, 2.5)
    assert a.forgetting == pytest.approx(1.0), "1.5 was its best"
    assert a.backward_transfer == pytest.approx(-0.5)
    assert (b.forgetting, b.backward_transfer) == (-0.25, 0.25)
    assert found.forgetting == pytest.approx(0.375)
    assert found.backward_transfer == pytest.approx(-0.125)


def test_a_source_that_is_trained_on_again_is_none_of_an_earlier_stage() -> None:
    again = [*FOUND[:-1], FOUND[-1] | {"source.a.loss": 1.0}]
    found = evaluated(stages_of(again, BEGINS, ("a", "b", "c")))
    assert set(found.sources) == {"b"}
    assert evaluated(stages_of(FOUND, BEGINS[:1], ("a",))).forgetting is None


def test_a_stage_without_an_evaluation_is_left_out() -> None:
    found = [row for row in FOUND if row["step"] != 3]
    names = [one.name for one in stages_of(found, BEGINS, ("a", "b", "c"))]
    assert names == ["one", "three"]


@pytest.mark.covers("EVL-07")
def test_a_run_tells_after_each_stage_and_keeps_it_in_its_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base.txt").write_text(story(60))
    chats = write_conversations(tmp_path / "chats.jsonl")
    run = Runs(tmp_path, monkeypatch).train(
        train_data=(),
        base_training_paths=(str(tmp_path / "base.txt"),),
        finetuning_paths=(str(chats),),
        phases=(
            "first: steps=2 source_weights=base=1,finetuning=0",
            "second: steps=2 source_weights=base=0,finetuning=1",
        ),
        steps=None,
    )
    [told] = [event for event in run.events if event["kind"] == "stage_evaluation"]
    base = told["data"]["sources"]["base"]
    losses = {row["step"]: row.get("source.base.eval_loss") for row in run.rows}
    assert (base["then"], base["now"]) == (losses[2], losses[4])
    assert base["backward_transfer"] == pytest.approx(losses[2] - losses[4])
    assert base["forgetting"] == pytest.approx(losses[4] - losses[2])
    assert set(told["data"]["sources"]) == {"base"} and told["step"] == 4
    kept = json.loads((run.folder / "results.json").read_text())
    assert kept["forgetting after second"] == (
        f"{base['forgetting']:+.4f} nats a token"
    )
