"""The experience store: what it keeps, and that nothing wrong in it is believed."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from lumina.errors import LuminaError
from lumina.state.experience import database, store
from lumina.state.experience.exchange import exported, read_export, take_in
from lumina.state.experience.posterior import counts_for
from lumina.state.experience.store import Experience, ExperienceStore
from mechanisms import mechanism
from remembered import DATA, KIND, a_record, an_outcome, outcomes


@pytest.fixture
def held(tmp_path: Path) -> ExperienceStore:
    """A store of two runs, the second with outcomes."""
    made = ExperienceStore(tmp_path / "experience.sqlite")
    made.add((a_record(1), []))
    made.add((a_record(2), outcomes(2, better=3, worse=1)))
    return made


def refused(held: ExperienceStore) -> LuminaError:
    before = held.path.read_bytes() if held.path.is_file() else b""
    with pytest.raises(LuminaError) as caught:
        held.all()
    assert str(held.path) in caught.value.message
    assert caught.value.hint
    if held.path.is_file():
        assert held.path.read_bytes() == before, "a store that is refused is changed"
    return caught.value


def by_hand(held: ExperienceStore, statement: str, *values: object) -> None:
    """Change the file past every check."""
    with sqlite3.connect(held.path) as other:
        other.execute(statement, values)
    other.close()


@pytest.mark.covers("ORC-18: run history")
def test_what_is_put_in_comes_out(held: ExperienceStore) -> None:
    found = held.all()
    assert found.runs == [a_record(2), a_record(1)]
    assert found.outcomes == outcomes(2, better=3, worse=1)


def test_there_is_nothing_where_there_is_no_file(tmp_path: Path) -> None:
    none = ExperienceStore(tmp_path / "none.sqlite")
    assert none.all() == Experience()
    assert none.like(KIND, DATA, 5) == []
    assert not none.path.exists()


def test_a_run_that_goes_on_takes_its_own_place(held: ExperienceStore) -> None:
    held.add((a_record(2, steps=400), outcomes(2, better=1, worse=0)))
    found = held.all()
    assert found.runs[0].steps == 400
    assert len(found.runs) == 2
    assert len(found.outcomes) == 1


def test_what_could_not_be_read_again_is_not_put_in(held: ExperienceStore) -> None:
    before = held.all()
    with pytest.raises(ValueError, match="verdict"):
        held.add((a_record(3), [an_outcome(3, verdict="great")]))
    with pytest.raises(ValueError, match="status"):
        held.add((a_record(4), []), (a_record(3, status="lost"), []))
    assert held.all() == before


def test_the_latest_runs_like_one(held: ExperienceStore) -> None:
    held.add((a_record(3, status="failed"), []), (a_record(4, data="ff" * 8), []))
    held.add((a_record(5, kind="moe:1M:adamw"), []), (a_record(6), []))
    assert [run.name for run in held.like(KIND, DATA, 2)] == ["run-6", "run-2"]
    assert held.like(KIND, "", 2) == []


def test_it_stays_bounded(
    held: ExperienceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "MOST_RUNS", 3)
    monkeypatch.setattr(store, "MOST_OF_A_RUN", 2)
    held.add(*((a_record(n), outcomes(n, 4, 0)) for n in range(10, 15)))
    found = held.all()
    assert [run.name for run in found.runs] == ["run-14", "run-13", "run-12"]
    assert [one.number for one in found.outcomes] == [3, 4] * 3
    monkeypatch.setattr(store, "MOST_OUTCOMES", 4)
    held.add((a_record(20), []))
    assert {one.run for one in held.all().outcomes} == {f"{13:016x}", f"{14:016x}"}


WRONG = {
    "another type": ("UPDATE runs SET steps = 'many'", "steps"),
    "beyond the range": ("UPDATE outcomes SET confidence = 1.5", "confidence"),
    "no number": ("UPDATE outcomes SET measured = 9e999", "measured"),
    "another word": ("UPDATE outcomes SET verdict = 'great'", "verdict"),
    "another name": ("UPDATE outcomes SET action = 'rm -rf /'", "action"),
    "a longer name": (f"UPDATE runs SET name = '{'x' * 300}'", "name"),
    "bytes": ("UPDATE runs SET name = x'00ff'", "name"),
    "no JSON": ("UPDATE runs SET options = '{'", "not valid"),
    "NaN in JSON": ("UPDATE runs SET options = '{\"eps\":NaN}'", "strict JSON"),
    "a mapping in JSON": ("UPDATE runs SET machine = '{\"a\":{}}'", "machine"),
    "a curve that falls back": ("UPDATE runs SET curve = '[[5,1],[4,1]]'", "curve"),
    "an outcome of no run": ("DELETE FROM runs", "does not hold"),
    "JSON too deep": (f"UPDATE runs SET curve = '{'[' * 20_000}'", "deep"),
}


@mechanism(
    "poisoned experience",
    component="experience",
    failure="values in the store of experience that no run could have written",
    recovery="refuse",
    expected="E101 names the field; none of it is used",
)
@pytest.mark.parametrize("wrong", WRONG)
def test_a_poisoned_value_is_refused(held: ExperienceStore, wrong: str) -> None:
    statement, word = WRONG[wrong]
    by_hand(held, statement)
    error = refused(held)
    assert error.code == "E101"
    assert word in error.message


LAYOUTS = {
    "another version": "PRAGMA user_version = 2",
    "another program": "PRAGMA application_id = 7",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON runs BEGIN DELETE FROM runs; END",
    "a view": "CREATE VIEW v AS SELECT load_extension('x')",
    "another table": "CREATE TABLE more (x)",
    "another column": "ALTER TABLE outcomes ADD COLUMN x",
}


@mechanism(
    "experience of another layout",
    component="experience",
    failure="a trigger, view, table or version that does not belong there",
    recovery="refuse",
    expected="E101; nothing is read, and the file is left as it is",
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_layout_is_neither_read_nor_written(
    held: ExperienceStore, layout: str
) -> None:
    by_hand(held, LAYOUTS[layout])
    assert refused(held).code == "E101"
    before = held.path.read_bytes()
    with pytest.raises(LuminaError, match="E101"):
        held.add((a_record(3), []))
    assert held.path.read_bytes() == before


def _text(path: Path) -> None:
    path.write_text("hello " * 100)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _scribbled(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:4200] = b"\xff" * 104
    path.write_bytes(content)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@mechanism(
    "damaged experience",
    component="experience",
    failure="the store is text, cut, scribbled over, a folder or a pipe",
    recovery="refuse",
    expected="E101 or E104, and nothing waits for the pipe",
)
@pytest.mark.parametrize("damage", [_text, _cut, _scribbled, _folder, _pipe])
def test_a_damaged_file_is_refused(
    held: ExperienceStore, damage: Callable[[Path], None]
) -> None:
    damage(held.path)
    assert refused(held).code in ("E101", "E104")


def test_a_file_too_large_for_a_store_is_refused(
    held: ExperienceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "MOST_BYTES", 1000)
    assert "1000 B" in refused(held).message


@mechanism(
    "experience held by another process",
    component="experience",
    failure="another connection holds the store and does not let go",
    recovery="refuse",
    expected="waited for a while, then told; afterwards it works again",
)
def test_a_store_that_is_held_is_waited_for_and_then_left(
    held: ExperienceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_SECONDS", 0.02)
    other = sqlite3.connect(held.path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for work in (held.all, lambda: held.add((a_record(3), []))):
        with pytest.raises(LuminaError, match="another process holds"):
            work()
    other.execute("COMMIT")
    other.close()
    held.add((a_record(3), []))
    assert len(held.all().runs) == 3


def test_several_write_at_once(held: ExperienceStore) -> None:
    def write(first: int) -> None:
        for number in range(first, first + 5):
            held.add((a_record(number), outcomes(number, 1, 1)))

    threads = [threading.Thread(target=write, args=(10 * n,)) for n in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = held.all()
    assert len(found.runs) == 22
    assert len(found.outcomes) == 4 + 40


@mechanism(
    "killed while experience is written",
    component="experience",
    failure="SIGKILL of a process that writes to the store without pause",
    recovery="resume",
    expected="the store is whole, each write there or not",
)
@pytest.mark.thorough
@pytest.mark.faults
def test_a_process_killed_in_a_write_leaves_what_was_there(
    held: ExperienceStore,
) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from lumina.state.experience.database import writing\n"
        "with writing(Path(sys.argv[1])) as database:\n"
        "    database.execute('PRAGMA cache_size = 1')\n"
        "    database.execute('DELETE FROM runs'); print('now', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(held.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"now\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(held.all().runs) == 2
    held.add((a_record(3), []))
    assert len(held.all().runs) == 3


def test_what_is_forgotten_is_gone_from_the_file(held: ExperienceStore) -> None:
    held.add((a_record(3, name="a-secret-name"), outcomes(3, 2, 0)))
    held.add((a_record(4), [an_outcome(4, anomaly="plateau")]))
    assert b"a-secret-name" in held.path.read_bytes()
    assert held.forget_runs([f"{3:016x}", f"{99:016x}"]) == 1
    assert b"a-secret-name" not in held.path.read_bytes()
    assert held.forget_anomaly("loss_spike") == 4
    found = held.all()
    assert [run.name for run in found.runs] == ["run-4", "run-2", "run-1"]
    assert [one.anomaly for one in found.outcomes] == ["plateau"]


def test_an_export_is_taken_in_as_a_whole_or_not_at_all(
    held: ExperienceStore, tmp_path: Path
) -> None:
    file, other = tmp_path / "all.json", ExperienceStore(tmp_path / "other.sqlite")
    file.write_text(exported(held.all()))
    assert take_in(other, read_export(file)) == 2
    assert other.all() == held.all()
    values = json.loads(file.read_text())
    for change in (
        {"version": 2},
        {"runs": values["runs"][1:]},
        {"runs": [values["runs"][0] | {"steps": -1}, values["runs"][1]]},
        {"outcomes": [values["outcomes"][0] | {"more": 1}]},
        {"outcomes": None},
    ):
        file.write_text(json.dumps(values | change))
        with pytest.raises(LuminaError, match="E101"):
            read_export(file)


@pytest.mark.covers("ORC-18: recovery patterns")
def test_counts_of_a_kind_of_run() -> None:
    mine = [one for n in range(4) for one in outcomes(n, better=2, worse=1)]
    shadow = an_outcome(5, mode="shadow")
    unclear = an_outcome(5, 2, verdict="unclear")
    same = an_outcome(5, 3, verdict="same")
    other = outcomes(6, 3, 3, context="moe:1B:lion:stable")
    counts, runs = counts_for(KIND, [*mine, shadow, unclear, same, *other])
    assert counts == {
        f"loss_spike/{KIND}:stable/rollback": [8, 5],
        f"loss_spike/{KIND}:any/rollback": [8, 5],
        "loss_spike/any:any/rollback": [11, 8],
    }
    assert runs == [f"{n:016x}" for n in (0, 1, 2, 3, 5, 6)]
    assert counts_for(KIND, mine[:4]) == ({}, [])


def test_one_run_alone_does_not_outweigh_the_others() -> None:
    counts, _ = counts_for(KIND, outcomes(1, better=100, worse=0) + outcomes(2, 0, 5))
    assert counts[f"loss_spike/{KIND}:stable/rollback"] == [10, 5]
