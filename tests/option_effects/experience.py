"""Options of the memory of runs: which file it is, and whether there is one."""

from __future__ import annotations

from lumina.state.experience.store import ExperienceStore
from option_effects import shows
from tiny_runs import Runs


@shows("experience")
def memory(runs: Runs) -> None:
    """A file that is named holds the run; one that is no store costs a warning."""
    store = ExperienceStore(runs.folder / "memory.sqlite")
    kept = runs.train(experience=str(store.path))
    runs.train(experience="off")
    [record] = store.all().runs
    assert (record.name, record.status) == (kept.folder.name, "finished")
    assert (record.steps, record.tokens) == (3, kept.rows[-1]["tokens"])
    assert record.eval_loss == kept.rows[-1]["eval_loss"]
    assert record.options["learning_rate"] == 3e-3
    assert record.machine["micro_batch_size"] == 4
    assert len(record.data) == 16

    store.path.write_text("not a store")
    third = runs.train(experience=str(store.path))
    [event] = [e for e in third.events if e["kind"] == "experience_ignored"]
    assert "is not remembered" in event["message"]
    assert "not an SQLite file" in third.printed
    assert third.events[-2]["kind"] == "run_finished"
    assert store.path.read_text() == "not a store"
