"""The files beside the checkpoints are cut, emptied, spoilt or gone."""

from __future__ import annotations

import shutil

import pytest

from fault_runs import unchanged
from mechanisms import mechanism
from training import events, final_tensors, rows, start


def half_a_line(file):
    file.write_bytes(file.read_bytes() + b'{"step": 7, "lo')


def zeros(file):
    """The end of a file that never reached the device before the power went."""
    file.write_bytes(file.read_bytes() + b"\0" * 100)


def cut(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def cut_in_a_word(file):
    text = file.read_text()
    file.write_text(text[: text.index("  num_layers:") + len("  num_la")])


def cut_at_a_line(file):
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[: len(lines) // 2]))


def spoilt(file):
    content = file.read_bytes()
    place = content.index(b"\n") + 20
    file.write_bytes(content[:place] + b"\xff\xfe" + content[place:])


def empty(file):
    file.write_bytes(b"")


def gone(file):
    shutil.rmtree(file) if file.is_dir() else file.unlink()


def no_name(file):
    file.write_bytes(b"\0\xff\0")


def of_nothing(file):
    file.write_text("step-00000099\n")


@mechanism(
    "half a row",
    component="record",
    failure="half a line at the end of metrics.jsonl",
    recovery="resume",
    expected="the half line is cut off; every row once",
    case="metrics.jsonl-half_a_line",
)
@mechanism(
    "unwritten end",
    component="record",
    failure="metrics.jsonl ends in zeros, as after a power failure",
    recovery="resume",
    expected="the zeros are cut off; every row once",
    case="metrics.jsonl-zeros",
)
@mechanism(
    "half an event",
    component="record",
    failure="half a line at the end of events.jsonl",
    recovery="resume",
    expected="the half line is cut off; the other events stay",
    case="events.jsonl-half_a_line",
)
@mechanism(
    "events gone",
    component="record",
    failure="events.jsonl was deleted",
    recovery="resume",
    expected="a new one begins; nothing that trains depends on it",
    case="events.jsonl-gone",
)
@mechanism(
    "plan gone",
    component="run folder",
    failure="plan.json was cut in half",
    recovery="make again",
    expected="it is decided again, to the same plan",
    case="plan.json-cut",
)
@mechanism(
    "status cut",
    component="run folder",
    failure="status.json was cut in half",
    recovery="make again",
    expected="it is written again; the checkpoints say where the run is",
    case="status.json-cut",
)
@mechanism(
    "tokenizer gone",
    component="run folder",
    failure="the folder `tokenizer` of the run was deleted",
    recovery="make again",
    expected="made again from the data, and compared with that of the checkpoint",
    case="tokenizer-gone",
)
@mechanism(
    "LATEST spoilt",
    component="checkpoint",
    failure="LATEST holds bytes that are no name",
    recovery="resume",
    expected="goes on from the newest checkpoint that is whole",
    case="checkpoints/LATEST-no_name",
)
@mechanism(
    "LATEST gone",
    component="checkpoint",
    failure="LATEST was deleted",
    recovery="resume",
    expected="goes on from the newest checkpoint that is whole",
    case="checkpoints/LATEST-gone",
)
@mechanism(
    "LATEST names nothing",
    component="checkpoint",
    failure="LATEST names a checkpoint that is not there",
    recovery="older checkpoint",
    expected="told by an event; goes on from the newest one that is there",
    case="checkpoints/LATEST-of_nothing",
)
@mechanism(
    "newest checkpoint gone",
    component="checkpoint",
    failure="the folder of the newest checkpoint was deleted",
    recovery="older checkpoint",
    expected="told by an event; goes on from the one before it",
    case="checkpoints/step-00000006-gone",
)
@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("metrics.jsonl", half_a_line),
        ("metrics.jsonl", zeros),
        ("events.jsonl", half_a_line),
        ("events.jsonl", gone),
        ("plan.json", cut),
        ("status.json", cut),
        ("tokenizer", gone),
        ("checkpoints/LATEST", no_name),
        ("checkpoints/LATEST", gone),
        ("checkpoints/LATEST", of_nothing),
        ("checkpoints/step-00000006", gone),
    ],
    ids=lambda case: case if isinstance(case, str) else case.__name__,
)
def test_a_run_goes_on_as_though_nothing_had_happened(faulty, name, damage):
    damage(faulty.copy() / name)
    run = faulty.assert_recovered()
    told = [e["data"]["checkpoint"] for e in events(run, "checkpoint_refused")]
    lost = {of_nothing: ["step-00000099"], gone: ["step-00000006"]}
    assert told == (lost[damage] if name.split("/")[-1][:2] in ("LA", "st") and (
        damage is of_nothing or "step" in name) else [])  # fmt: skip
    assert [e["step"] for e in events(run, "resumed")] == [4 if "step" in name else 6]


@mechanism(
    "row spoilt",
    component="record",
    failure="bytes that are no text in the middle of metrics.jsonl",
    recovery="refuse",
    expected="E101 names the line; nothing is changed",
    case="metrics.jsonl-spoilt",
)
@mechanism(
    "event spoilt",
    component="record",
    failure="bytes that are no text in the middle of events.jsonl",
    recovery="refuse",
    expected="E101 names the line; nothing is changed",
    case="events.jsonl-spoilt",
)
@mechanism(
    "settings spoilt",
    component="run folder",
    failure="config.yaml is cut in the middle of a word",
    recovery="refuse",
    expected="E101 names the line; nothing is changed",
    case="config.yaml-cut_in_a_word",
)
@mechanism(
    "settings cut",
    component="run folder",
    failure="config.yaml is cut at the end of a line, and still YAML",
    recovery="refuse",
    expected="E303 names what it lacks; no default takes the place of a setting",
    case="config.yaml-cut_at_a_line",
)
@mechanism(
    "settings gone",
    component="run folder",
    failure="config.yaml of a run with checkpoints was deleted",
    recovery="refuse",
    expected="E303; the run does not begin afresh over its checkpoints",
    case="config.yaml-gone",
)
@mechanism(
    "tokenizer cut",
    component="run folder",
    failure="tokenizer.json of the run is cut in half",
    recovery="refuse",
    expected="E101; nothing is changed",
    case="tokenizer/tokenizer.json-cut",
)
@mechanism(
    "checkpoints gone",
    component="checkpoint",
    failure="the folder of all checkpoints was deleted",
    recovery="refuse",
    expected="E303; a run that had checkpoints does not begin afresh",
    case="checkpoints-gone",
)
@pytest.mark.faults
@pytest.mark.parametrize(
    ("name", "damage", "code"),
    [
        ("metrics.jsonl", spoilt, "E101"),
        ("events.jsonl", spoilt, "E101"),
        ("config.yaml", cut_in_a_word, "E101"),
        ("config.yaml", cut_at_a_line, "E303"),
        ("config.yaml", gone, "E303"),
        ("tokenizer/tokenizer.json", cut, "E101"),
        ("checkpoints", gone, "E303"),
    ],
    ids=lambda case: case if isinstance(case, str) else case.__name__,
)
@pytest.mark.parametrize("how", ["auto", "named"])
def test_a_run_is_refused_and_left_as_it_is(faulty, name, damage, code, how):
    run = faulty.copy()
    good = (run / name).read_bytes() if (run / name).is_file() else None
    damage(run / name)
    before = unchanged(run)
    if how == "auto":
        ended, said = faulty.ended("--auto-resume")
    else:
        running = start(["train", "--resume", str(run)], faulty.folder / "log")
        ended, said = running.wait(), running.output
    assert ended == 1 and code in said and "Traceback" not in said, said
    assert unchanged(run) == before
    if good is not None:  # restored from a copy, it goes on
        (run / name).write_bytes(good)
        faulty.assert_recovered()


@mechanism(
    "rows gone",
    component="record",
    failure="metrics.jsonl was emptied",
    recovery="go on",
    expected="an event names the steps without a row; the weights are as undisturbed",
    case="empty",
)
@mechanism(
    "rows cut",
    component="record",
    failure="metrics.jsonl lost its last rows, which the checkpoint has trained",
    recovery="go on",
    expected="an event names the steps without a row; the weights are as undisturbed",
    case="cut_at_a_line",
)
@pytest.mark.parametrize(
    "damage", [pytest.param(empty, marks=pytest.mark.faults), cut_at_a_line],
    ids=lambda damage: damage.__name__,
)  # fmt: skip
def test_rows_that_are_lost_are_told(faulty, damage):
    damage(faulty.copy() / "metrics.jsonl")
    run = faulty.recover()
    first = 1 if damage is empty else 4
    (told,) = events(run, "rows_missing")
    assert told["severity"] == "warning" and told["data"]["gaps"] == [[first, 6]]
    assert [row["step"] for row in rows(run)] == [*range(1, first), 7, 8]
    whole = final_tensors(faulty.undisturbed)
    assert all(
        bool((found == whole[n]).all()) for n, found in final_tensors(run).items()
    )
