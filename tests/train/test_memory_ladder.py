"""A step without memory is taken again with less: the same losses, told and remembered.

Allocation failures are injected here, by raising what the allocator raises, except
where a test says that its limit is real.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.assemble.program import Program
from lumina.data.stream import StepBatches
from lumina.errors import LuminaError
from lumina.state.reader import latest_good, open_checkpoint
from lumina.train.memory_ladder import limits
from lumina.train.memory_ladder.recovery import next_attempt
from mechanisms import mechanism
from programs import tiny_plan
from short_of_memory import at_most, short
from tiny_runs import Around, Run, Runs, seen

STORY = {"steps": 4, "dropout": 0.1, "global_batch_size": 8, "batch_size": 8}


@pytest.fixture
def runs(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Runs:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path_factory.mktemp("cache")))
    return Runs(tmp_path, monkeypatch)


def told(run: Run, kind: str) -> list[dict[str, Any]]:
    return [event for event in run.events if event["kind"] == kind]


@mechanism(
    "out of device memory in a step",
    component="memory",
    failure="the allocator refuses a step more rows than two",
    recovery="smaller pieces",
    expected="the step is taken again with a smaller micro-batch at the same global "
    "batch; figures as of a run that began so",
    real=False,
)
@pytest.mark.covers(
    "TRN-23: catch",
    "TRN-23: halve batch",
    "TRN-23: raise accumulation to keep effective batch",
    "TRN-23: continue",
    "MEM-25: smaller batch",
)
def test_losses_are_those_of_a_run_that_began_on_the_rung(runs: Runs) -> None:
    began = runs.train(**(STORY | {"batch_size": 2}))
    run = runs.train(short(at_most(2)), **STORY)
    assert run.column("loss") == began.column("loss")
    assert run.column("grad_norm") == began.column("grad_norm")
    for name, tensor in began.tensors.items():
        assert torch.equal(run.tensors[name], tensor), name
    found = told(run, "out_of_memory")
    assert [e["data"]["rung"] for e in found] == ["cache", "micro_batch", "micro_batch"]
    assert [e["data"]["value"] for e in found] == [None, 4, 2]
    assert "Injected" in found[0]["message"] and found[0]["code"] == "E201"
    (fits,) = told(run, "memory_recovered")
    assert fits["data"]["micro_batch_size"] == 2
    # These are not the losses of a run without shortage, and that is told.
    assert [e["data"]["numbers"] for e in found] == ["as they were", *2 * (DRAWS,)]
    assert found[1]["message"].endswith(DRAWS)


DRAWS = "dropout draws other numbers for smaller forwards"


@pytest.mark.covers("TRN-23: store found settings for later runs")
def test_the_next_run_and_a_resumed_one_begin_on_the_rung(runs: Runs) -> None:
    """Until it is forgotten; a damaged file counts as empty."""
    short_run = runs.train(short(at_most(2), at=1), **(STORY | {"steps": 2}))
    with open_checkpoint(latest_good(short_run.folder)) as reader:
        journal = [c for c in reader.meta.journal if c["source"] == "memory_ladder"]
    assert [(c["name"], c["value"]) for c in journal] == [
        ("micro_batch_size", 4),
        ("micro_batch_size", 2),
    ]

    def sizes(into: list[int]) -> Around:
        return seen(lambda program, _: program.plan.micro_batch_size, into)

    on = {"run_dir": str(short_run.folder), "auto_resume": True, "steps": 3}
    Path(limits.cache_root() / limits.FILE).rename(runs.folder / "kept")
    resumed: list[int] = []
    runs.train(sizes(resumed), **(STORY | on))
    assert resumed == [2]  # of the journal alone

    Path(runs.folder / "kept").rename(limits.cache_root() / limits.FILE)
    found: list[int] = []
    again = runs.train(sizes(found), **(STORY | {"steps": 1}))
    assert found == [2] and "micro_batch_size 2 instead of 8" in again.printed
    assert DRAWS in " ".join(again.printed.split())
    assert "an earlier run" in told_plan(again)["reasons"]["micro_batch_size"]
    runs.train(sizes(found), **(STORY | {"steps": 1, "seq_length": 16}))
    runs.train(sizes(found), **(STORY | {"steps": 1, "forget_memory_limits": True}))
    runs.train(sizes(found), **(STORY | {"steps": 1}))
    assert found == [2, 8, 8, 8]


def told_plan(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder / "plan.json").read_text())
    return found


@mechanism(
    "memory of rungs damaged",
    component="cache",
    failure="the file that remembers what fitted is damaged",
    recovery="leave out",
    expected="it counts as empty, and is written anew",
)
@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"version": 1, "limits": 3}',
        '{"version": 1, "limits": {"k": {"controls": {"learning_rate": 1}}}}',
        json.dumps({"version": 1, "limits": {"k": {"controls": {"learning_rate": 1.0},
                    "run": "r", "text": "t", "proven": True, "time": 1}}}),
        json.dumps({"version": 1, "limits": {"k": {"controls": {"micro_batch_size": 0},
                    "run": "r", "text": "t", "proven": True, "time": 1}}}),
    ],
)  # fmt: skip
def test_a_damaged_memory_counts_as_empty(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    (tmp_path / limits.FILE).write_text(content)
    memory = limits.Limits("k", "run")
    assert memory.known() is None
    memory.remember({"micro_batch_size": 2}, "why", proven=True)
    assert memory.known() == limits.Limit({"micro_batch_size": 2}, "run", "why", True)
    assert memory.forget() and not memory.forget() and memory.known() is None


@mechanism(
    "out of device memory on every rung",
    component="memory",
    failure="the allocator refuses every step",
    recovery="refuse",
    expected="E201 with all that was tried; the weights of the last whole step are "
    "saved",
    real=False,
)
@pytest.mark.thorough
@pytest.mark.covers(
    "TRN-23: down to batch 1, then fail with E201",
    "TRN-24: emergency checkpoint before OOM",
    "MEM-26",
)
def test_the_ladder_ends_with_what_was_tried(runs: Runs) -> None:
    """The weights of the step before are saved; the run can be gone on with."""
    with pytest.raises(LuminaError) as caught:
        runs.train(short(lambda _: False, at=1, where="backward"), **STORY)
    text = caught.value.message
    assert caught.value.code == "E201" and "step 2" in text and "Injected" in text
    for words in ("cache", "has 4 rows", "2 rows", "1 row ", "selective", "full"):
        assert words in text, words
    (run,) = runs.folder.glob("run-*")
    with open_checkpoint(latest_good(run)) as reader:
        assert reader.meta.step == 1
        weights = {name: reader.tensor(name).clone() for name in reader.names()}
    one = runs.train(**(STORY | {"steps": 1}))
    assert all(torch.equal(weights[n], t) for n, t in one.tensors.items())


@pytest.mark.thorough
@pytest.mark.covers("MEM-25: checkpoint before OOM")
def test_the_last_whole_step_is_saved_before_a_run_without_room_ends(
    runs: Runs,
) -> None:
    with pytest.raises(LuminaError, match="E201"):
        runs.train(short(lambda _: False, at=2, where="forward"), **STORY)
    (run,) = runs.folder.glob("run-*")
    with open_checkpoint(latest_good(run)) as reader:
        assert reader.meta.step == 2
        saved = {name: reader.tensor(name).clone() for name in reader.names()}
    two = runs.train(**(STORY | {"steps": 2}))
    assert all(torch.equal(saved[name], t) for name, t in two.tensors.items())


@pytest.mark.covers("MEM-25: collection on pressure", "MEM-25: alerts")
def test_the_last_rung_keeps_the_inputs_of_segments_only(runs: Runs) -> None:
    """Where blocks are passed once each; the losses stay."""
    shape = {"num_layers": 4, "batch_size": 1, "gradient_checkpointing": "full"}
    shape |= {"steps": 1}
    fits = short(lambda p: p.plan.gradient_checkpointing == "sqrt")
    run = runs.train(fits, **(STORY | shape))
    assert run.column("loss") == runs.train(**(STORY | shape)).column("loss")
    tried = [e["data"]["rung"] for e in told(run, "out_of_memory")]
    assert tried == ["cache", "checkpointing_sqrt"]
    recursions = {"use_mor": True, "mor_recursions": 2}
    with pytest.raises(LuminaError) as caught:
        runs.train(short(lambda p: False), **(STORY | shape | recursions))
    assert "sqrt" not in caught.value.message


def test_without_recovery_and_with_pins(runs: Runs) -> None:
    never = short(lambda _: False)
    with pytest.raises(LuminaError, match="--no-memory-recovery"):
        runs.train(never, **STORY, memory_recovery=False)
    plan = tiny_plan(pinned=("micro_batch_size",))
    attempt = next_attempt(plan, cleared=True)
    assert attempt is not None and attempt.value == "selective"


@mechanism(
    "out of device memory in the optimizer",
    component="memory",
    failure="the allocator refuses while weights are changed",
    recovery="refuse",
    expected="E201; the step is not repeated on weights that are half changed",
    real=False,
)
@pytest.mark.parametrize(("forget", "rows"), [(False, 4), (True, 8)])
def test_a_failure_while_weights_change_is_not_repeated(
    runs: Runs, forget: bool, rows: int
) -> None:
    """Nothing half-changed is saved, and the resumed run begins one rung down.

    Unless what was found out is to be forgotten.
    """

    def around(program: Program, batches: StepBatches) -> Any:
        member = next(iter(program.optimizer.members.values())).optimizer
        step = member.step

        def fail(**arguments: Any) -> None:
            step(**arguments)
            raise torch.OutOfMemoryError("CUDA out of memory. Injected.")

        member.step = fail if program.plan.micro_batch_size == 8 else step
        return contextlib.nullcontext()

    with pytest.raises(LuminaError, match="weights were being changed"):
        runs.train(around, **STORY)
    (run,) = runs.folder.glob("run-*")
    assert latest_good(run) is None
    again = {"run_dir": str(run), "auto_resume": True, "forget_memory_limits": forget}
    assert told_plan(runs.train(**(STORY | again)))["micro_batch_size"] == rows


@pytest.mark.thorough
def test_what_forwards_change_beside_gradients_is_taken_back(runs: Runs) -> None:
    """Tokens are counted once, however often their step is taken."""
    counted = STORY | {"watch_vocabulary": True, "dropout": 0.0}
    plain = runs.train(**counted)
    run = runs.train(short(at_most(2), at=1, where="backward"), **counted)
    assert len(told(run, "out_of_memory")) == 3
    wanted = plain.slot("vocabulary_counts")["counts"]
    assert torch.equal(run.slot("vocabulary_counts")["counts"], wanted)


def test_no_room_for_the_model_itself_has_a_code(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Injected: the weights do not fit, so that there is no step to take again."""

    def assemble(*_: Any, **__: Any) -> Program:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB")

    monkeypatch.setattr("lumina.train.start.assemble", assemble)
    with pytest.raises(LuminaError, match="no room to build the model") as e:
        runs.train()
    assert e.value.code == "E201" and "--parallel fsdp2" in e.value.hint
    [status] = runs.folder.glob("*/status.json")
    assert json.loads(status.read_text())["status"] == "failed"
