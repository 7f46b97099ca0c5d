"""Options of the memory of runs: which file it is, and whether there is one."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from lumina.config import Source
from lumina.observe.console import Console
from lumina.state.experience.beside import earlier_runs
from lumina.state.experience.store import ExperienceStore
from lumina.state.run_directory import RunDirectory
from lumina.train import Trainer
from option_effects import shows
from reported_run import section
from tiny_runs import Run, Runs


@pytest.mark.covers("ORC-18: architecture and hardware settings")
@shows("experience")
def memory(runs: Runs) -> None:
    """A file that is named holds the run; one that is no store costs a warning."""
    store = ExperienceStore(runs.folder / "memory.sqlite")
    kept = runs.train(experience=str(store.path))
    runs.train(experience="off")
    assert len(store.all().runs) == 1
    [record] = store.all().runs
    assert (record.name, record.status) == (kept.folder.name, "finished")
    assert (record.steps, record.tokens) == (3, kept.rows[-1]["tokens"])
    assert record.eval_loss == kept.rows[-1]["eval_loss"]
    assert record.options["learning_rate"] == 3e-3
    assert record.machine["micro_batch_size"] == 4
    assert len(record.data) == 16
    assert not (kept.folder / "earlier_runs.json").exists()
    beside = runs.train(experience=str(store.path))
    [earlier] = earlier_runs(RunDirectory(beside.folder))
    assert earlier == record
    assert "1 earlier run" in section(beside.folder, "earlier")

    store.path.write_text("not a store")
    third = runs.train(experience=str(store.path))
    [event] = [e for e in third.events if e["kind"] == "experience_ignored"]
    assert "is not remembered" in event["message"]
    assert "not an SQLite file" in third.printed
    assert third.events[-2]["kind"] == "run_finished"
    assert store.path.read_text() == "not a store"


@shows("start_from_experience")
def start(runs: Runs) -> None:
    """The rate that earlier runs of this kind did best with, unless one is chosen."""
    store = ExperienceStore(runs.folder / "memory.sqlite")
    first = runs.train(experience=str(store.path))
    [mine] = store.all().runs
    for number in range(6):
        rate = (1e-3, 2e-3)[number % 2]
        options = mine.options | {"learning_rate": rate, "warmup_steps": 0}
        made = replace(
            mine, id=f"{number:016x}", name=f"early-{number}", options=options,
            eval_loss=4 - 100 * rate,
        )  # fmt: skip
        store.add((made, []))
    store.forget_runs([mine.id])
    given = {"experience": str(store.path), "adaptive": "on"}
    told = runs.train(**given)
    assert told.column("learning_rate") == first.column("learning_rate")
    [event] = [e for e in told.events if e["kind"] == "experience_start"]
    assert "--start-from-experience takes it" in event["message"]
    assert all(f"early-{number}" in event["message"] for number in (1, 3, 5))
    assert "on this data" in event["message"]

    def begun(chosen: bool) -> tuple[float, str]:
        config = runs.config(**given, start_from_experience=True, warmup_steps=1)
        if not chosen:
            open_ = {"learning_rate": 3e-4, "warmup_steps": None}
            config = config.override(open_, Source("default"))
        console = Console(stream=io.StringIO(), live=False)
        run = Run(Trainer(config, console=console).train(), "")
        [event] = [e for e in run.events if e["kind"] == "experience_start"]
        return run.column("learning_rate")[-1], event["message"]

    rate, said = begun(chosen=False)
    assert rate == 2e-3
    assert "the run begins with it" in said
    rate, said = begun(chosen=True)
    assert rate == 3e-3
    assert "were chosen for this run, and stay" in said
    runs.refused("E002", **given | {"start_from_experience": True, "adaptive": "off"})
