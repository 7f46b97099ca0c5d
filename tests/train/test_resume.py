"""What going on with a run means, and when it is refused."""

from __future__ import annotations

import json
import shutil

import pytest

from marked_cases import marked
from mechanisms import mechanism
from training import (
    DENSE,
    Trainings,
    assert_same_run,
    checkpoints,
    column,
    digests,
    events,
    reached,
    rows,
    start,
    trajectory,
    wait_until,
    words,
)

FLAGS = [
    *DENSE,
    *words("--precision fp32 --save-every-n-batches 4 --eval-every-n-batches 4"),
]
ALL = [*FLAGS, "--steps", "12"]


@pytest.fixture(scope="module")
def finished(trainings):
    """A run of twelve steps; not to be written to."""
    return trainings.train("finished", *ALL)


@pytest.fixture
def copied(finished, tmp_path, trainings):
    """A copy of the finished run, moved elsewhere, and trainings beside it."""
    shutil.copytree(finished, tmp_path / "run")
    return Trainings(tmp_path, trainings.data)


def lumina(tmp_path, *arguments, code=0):
    """Any command; its output."""
    running = start([str(word) for word in arguments], tmp_path / "output.log")
    assert running.wait() == code, running.output
    assert "Traceback" not in running.output
    return running.output


def contents(run):
    """Every file of a run but its lock, with its bytes."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


def test_a_run_is_not_trained_over(copied):
    run = copied.folder / "run"
    before = contents(run)
    refused = copied.start("run", *ALL)
    assert refused.wait() == 2
    assert "E002" in refused.output and "--auto-resume" in refused.output
    assert "Traceback" not in refused.output
    assert contents(run) == before


@mechanism(
    "two processes on one run",
    component="run folder",
    failure="a second process is to train in the folder of one that runs",
    recovery="refuse",
    expected="E002 names the process; the first one is not disturbed",
)
@pytest.mark.faults
def test_a_second_writer_is_refused(trainings):
    long = [*FLAGS, "--steps", "100000"]
    first = trainings.start("busy", *long)
    run = trainings.folder / "busy"
    try:
        assert wait_until(reached(run, 2), first)
        for how in (["--auto-resume"], ["--resume", str(run)]):
            second = start(trainings.command("busy", *long, *how), run.parent / "2.log")
            assert second.wait() == 2
        assert "E002" in second.output and "another process" in second.output
        assert first.alive
    finally:
        first.kill()
    # The lock went with the process.
    steps = rows(run)[-1]["step"] + 1
    trainings.train("busy", *FLAGS, "--steps", str(steps), "--auto-resume")


def test_a_finished_run_is_left_as_it_is(copied):
    run = copied.folder / "run"
    before = contents(run)
    again = copied.start("run", *ALL, "--auto-resume")
    assert again.wait() == 0
    assert "finished at step 12" in " ".join(again.output.split())
    assert contents(run) == before


@pytest.mark.parametrize(
    "how",
    marked(
        ("latest", "run", "checkpoint", "auto"),
        {
            "latest": "CKP-01: resume (latest)",
            "run": "CKP-09: --resume PATH",
            "checkpoint": "CKP-09: --resume PATH",
            "auto": "CKP-09: --auto-resume",
        },
    ),
)
def test_more_steps_go_on_from_where_it_was(copied, how):
    run = copied.folder / "run"
    last = run / "checkpoints" / "step-00000012"
    if how == "auto":
        copied.train("run", *FLAGS, "--steps", "16", "--auto-resume")
    else:
        where = {"latest": "latest", "run": run, "checkpoint": last}[how]
        base = ["--run-dir", copied.folder] if how == "latest" else []
        # Everything else, the data's place too, is the run's own.
        lumina(copied.folder, "train", "--resume", where, "--steps", "16", *base)
    assert [row["step"] for row in rows(run)] == list(range(1, 17))
    (resumed,) = events(run, "resumed")
    assert resumed["step"] == 12 and "steps: 12 -> 16" in resumed["message"]
    assert "step 16" in events(run, "schedule_recomputed")[0]["message"]
    assert column(run, "learning_rate")[12] > column(run, "learning_rate")[11]
    assert column(run, "tokens")[12] > column(run, "tokens")[11]


def test_another_size_of_a_step_is_said(trainings):
    """Ranks, sequences or forwards that change it without its name being said."""
    flags = words("--steps 3 --grad-accum 1 --global-batch-size auto")
    run = trainings.train("sized", *FLAGS, *flags)
    again = ["train", "--resume", run]
    lumina(trainings.folder, *again, "--steps", "4")
    assert not events(run, "batch_changed")
    lumina(trainings.folder, *again, "--steps", "6", "--grad-accum", "2")
    (told,) = events(run, "batch_changed")
    assert told["severity"] == "warning" and "8 sequences" in told["message"]
    assert "not 4" in told["message"]


@pytest.mark.covers("CKP-11: rollback manual")
def test_going_back_to_an_older_checkpoint_repeats_the_rest(copied, finished):
    run = copied.folder / "run"
    older = run / "checkpoints" / "step-00000004"
    told = lumina(copied.folder, "train", "--resume", older)
    assert "step 12" in told
    assert_same_run(run, finished)
    # What was there before is set aside, not lost, until it is overtaken.
    assert {e["data"]["checkpoint"][:9] for e in events(run, "checkpoint_abandoned")}
    assert len((run / "metrics.discarded-1.jsonl").read_text().splitlines()) == 8


@pytest.mark.covers("CKP-07: configuration checks")
@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--hidden-size 64", "hidden_size 32 -> 64"),
        ("--num-layers 3", "num_layers 2 -> 3"),
        ("--seed 8", "seed 7 -> 8"),
        ("--seq-length 64", "seq_length 32 -> 64"),
        ("--use-moe", "use_moe False -> True"),
        ("--preset b1 --no-use-mod --no-use-mor", "preset debug -> b1"),
        ("--freeze blocks.0.*", "freeze"),
    ],
)
def test_another_model_is_refused_by_name(copied, flags, named):
    run = copied.folder / "run"
    before = contents(run)
    told = lumina(
        copied.folder, "train", "--resume", run, *flags.split(), "--steps", 16, code=2
    )
    assert "E002" in told and named in told and "--init-from" in told
    after = contents(run)
    assert after.keys() == before.keys()
    assert {n for n in before if before[n] != after[n]} <= {"events.jsonl"}


@mechanism(
    "other data at a resume",
    component="data",
    failure="the files of the data hold other text than when the run was begun",
    recovery="refuse",
    expected="E002; the position is not applied to other rows",
)
def test_other_data_is_refused(copied, tmp_path):
    run = copied.folder / "run"
    other = tmp_path / "other.txt"
    other.write_text("Something else entirely, over and over again. \n" * 200)
    told = lumina(
        tmp_path, "train", "--resume", run, "--train-data", other, "--steps", 16, code=2
    )
    assert "E002" in told and "training data" in told
    assert checkpoints(run)[-1] == "step-00000012"


@pytest.mark.parametrize("where", ["nothing", "empty", "file"])
def test_nothing_to_resume(tmp_path, where):
    path = tmp_path / where
    if where == "empty":
        path.mkdir()
    elif where == "file":
        path.write_text("no run")
    told = lumina(tmp_path, "train", "--resume", path, code=1)
    assert "E304" in told and where in told


def test_latest_without_a_run(tmp_path):
    told = lumina(
        tmp_path, "train", "--resume", "latest", "--run-dir", tmp_path, code=1
    )
    assert "E304" in told


def test_a_run_directory_that_contradicts_resume_is_refused(copied, tmp_path):
    told = lumina(
        tmp_path,
        *("train", "--resume", copied.folder / "run"),
        *("--run-dir", tmp_path / "elsewhere"),
        code=2,
    )
    assert "E002" in told and "--init-from" in told
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.covers("CKP-09: --resume PATH", "CKP-14")
def test_a_moved_run_goes_on_identically(trainings, finished, tmp_path):
    """Stopped, copied to another place, the first one deleted, and resumed there."""
    running = trainings.start("moving", *ALL, HOLD_AFTER="6")
    run = trainings.folder / "moving"
    assert wait_until(reached(run, 6), running)
    running.kill()
    assert checkpoints(run) == ["step-00000004"]
    moved = tmp_path / "deep" / "er" / "moved"
    shutil.copytree(run, moved)
    shutil.rmtree(run)
    lumina(tmp_path, "train", "--resume", moved)
    assert_same_run(moved, finished)
    settings = (moved / "config.yaml").read_text()
    assert f"run_dir: {moved}" in settings and f"run_dir: {run}" not in settings
    assert "resume: null" in settings


@pytest.mark.covers("TRN-20: --early-stopping-patience")
def test_early_stopping_ends_before_the_last_step(trainings):
    """A learning rate that destroys the model: evaluations only get worse."""
    run = trainings.train(
        "worse",
        *FLAGS,
        *words("--steps 60 --early-stopping-patience 2 --eval-every-n-batches 2"),
        *words("--learning-rate 1 --warmup-steps 0 --max-grad-norm 0"),
    )
    losses = column(run, "eval_loss")
    best = losses.index(min(losses))
    assert len(losses) == best + 3 and rows(run)[-1]["step"] < 60
    (end,) = events(run, "run_finished")
    assert "no better evaluation in 2" in end["message"]
    status = json.loads((run / "status.json").read_text())
    assert status["status"] == "finished"
    # Patience survives a resume: there is nothing left to do.
    last = rows(run)[-1]["step"]
    trainings.train("worse", *FLAGS, "--steps", "60", "--auto-resume")
    assert rows(run)[-1]["step"] == last


@pytest.mark.covers("TRN-08: optimizer state only for parameters that train")
def test_init_from_and_freeze(trainings, finished, tmp_path):
    from lumina.state.reader import latest_good, open_checkpoint

    run = trainings.train(
        "tuned",
        *DENSE,
        *words("--precision fp32 --steps 5", init_from=finished),
        *words("--freeze backbone.embedding.* blocks.0.*"),
    )
    old = open_checkpoint(latest_good(finished))
    new = open_checkpoint(latest_good(run))
    frozen = {
        n
        for n in new.names()
        if n.startswith(("backbone.embedding.", "backbone.blocks.0."))
    }
    assert frozen
    for name in new.names():
        same = bool((new.tensor(name) == old.tensor(name)).all())
        assert same == (name in frozen), name
    assert set(new.optimizer_names("exp_avg")) == set(new.names()) - frozen
    # Weights only: it begins at step one, with the tokenizer of the other run.
    assert [row["step"] for row in rows(run)] == [1, 2, 3, 4, 5]
    assert (run / "tokenizer" / "tokenizer.json").read_bytes() == (
        finished / "tokenizer" / "tokenizer.json"
    ).read_bytes()
    assert rows(run)[0]["loss"] < rows(finished)[0]["loss"]


def test_a_pattern_that_matches_nothing_is_refused(trainings):
    running = trainings.start("frozen", *ALL, "--freeze", "embeding.*")
    assert running.wait() == 2
    assert "E005" in running.output and "embeding" in running.output


def test_dropout_may_differ_from_the_weights_origin(trainings, finished):
    run = trainings.train(
        "dropped", *DENSE, *words("--steps 3 --dropout 0.3", init_from=finished)
    )
    assert "dropout 0.3" in trainings.output("dropped")
    assert len(rows(run)) == 3


@pytest.mark.thorough
def test_a_presets_epochs_do_not_end_a_run_of_named_steps(trainings):
    """Steps were asked for: the data is read as often as they take."""
    run = trainings.train(
        "many", *DENSE, *words("--steps 60 --global-batch-size 64 --batch-size 64")
    )
    assert rows(run)[-1]["step"] == 60 and column(run, "epoch")[-1] > 20


@mechanism(
    "killed in the first second",
    component="run folder",
    failure="SIGKILL as soon as the lock, the settings, the tokenizer or the events "
    "are there",
    recovery="begin again",
    expected="figures as undisturbed",
)
@pytest.mark.faults
def test_settings_are_whole_after_a_kill_at_the_very_start(trainings, finished):
    """Killed at many points of the first second; --auto-resume always goes on."""
    for number in range(4):
        name = f"start-{number}"
        run = trainings.folder / name
        running = trainings.start(name, *ALL, "--auto-resume")
        wanted = (".lock", "config.yaml", "tokenizer", "events.jsonl")[number]
        assert wait_until((run / wanted).exists, running)
        running.kill()
        trainings.train(name, *ALL, "--auto-resume")
        assert trajectory(run) == trajectory(finished)
        assert digests(run, 12) == digests(finished, 12)


def test_nothing_held_out_means_no_evaluation(trainings):
    run = trainings.train("all-of-it", *FLAGS, *words("--steps 4 --eval-fraction 0"))
    assert [row for row in rows(run) if "eval_loss" in row] == []
    assert checkpoints(run) == ["step-00000004"]


def test_a_size_left_open_comes_with_the_weights(trainings, finished):
    flags = words("--steps 3 --vocab-size auto", init_from=finished)
    run = trainings.train("open-size", *flags, *words("--precision fp32"))
    assert len(rows(run)) == 3


@pytest.mark.covers("CKP-02: configuration and metadata")
def test_choices_left_open_stay_as_the_run_began(trainings, monkeypatch):
    """Another machine state may choose another micro-batch; a resumed run may not."""
    from lumina.config import Config
    from lumina.plan import layout_choice
    from lumina.train import Trainer

    flags = [*words("--save-every-n-batches 2 --steps 4"), *DENSE]
    command = trainings.command("open-choices", *flags)
    at = command.index("--batch-size")
    trainings_start = start(
        [*command[:at], *command[at + 2 :]], trainings.folder / "open-choices.log"
    )
    assert trainings_start.wait() == 0, trainings_start.output
    run = trainings.folder / "open-choices"
    before = json.loads((run / "plan.json").read_text())
    # Nearly no room: a fresh plan would take the smallest forward.
    monkeypatch.setattr(layout_choice, "MEMORY_SHARE", 1e-9)
    config = Config.load(run / "config.yaml").replace(resume=str(run), steps=6)
    result = Trainer(config).train()
    after = json.loads((run / "plan.json").read_text())
    assert result.steps == 6
    for field in ("micro_batch_size", "grad_accum", "compute_dtype"):
        assert after[field] == before[field], field


def test_another_batch_trains_the_rows_that_are_left(trainings):
    """Three batch sizes of one run: it ends at its epochs, at the floor."""
    flags = [*DENSE, *words("--precision fp32 --eval-fraction 0 --batch-size 2")]
    flags += words("--grad-accum 1 --global-batch-size auto --save-every-n-batches 4")
    run = trainings.train("resized", *flags, "--epochs", "0.1")
    steps = len(rows(run))
    first = run / "checkpoints" / "step-00000004"
    shutil.copytree(first, kept := trainings.folder / "resized-4")
    for batch in ("4", "1"):
        if not first.is_dir():
            shutil.copytree(kept, first)
        lumina(trainings.folder, "train", "--resume", first, "--batch-size", batch)
        assert rows(run)[-1]["epoch"] == pytest.approx(0.1, abs=0.01)
        floor = json.loads((run / "plan.json").read_text())["min_lr"]
        assert rows(run)[-1]["learning_rate"] == pytest.approx(floor)
        assert (len(rows(run)) < steps) == (batch == "4")
        told = events(run, "schedule_recomputed")[-1]["message"]
        assert f"ends at step {len(rows(run))}, epoch 0.1" in told


def test_a_limit_named_now_replaces_the_other_one(trainings):
    run = trainings.train("limits", *FLAGS, *words("--steps 2 --warmup-steps 1"))
    output = lumina(trainings.folder, "train", "--resume", run, "--epochs", "0.1")
    assert len(rows(run)) > 2
    assert rows(run)[-1]["epoch"] == pytest.approx(0.1, abs=0.01)
    assert f"{len(rows(run))} steps, to epoch 0.1 (" in " ".join(output.split())
    assert f"done: the run ends at step {len(rows(run))}, epoch 0.1" in output
    more = len(rows(run)) + 1
    lumina(trainings.folder, "train", "--resume", run, "--steps", more)
    assert len(rows(run)) == more
    output = lumina(trainings.folder, "train", "--resume", run, "--epochs", "0.05")
    assert "nothing left to train" in output and f"step {more} is done" in output


def test_data_named_from_another_folder_is_said(trainings, tmp_path, monkeypatch):
    """The run's own relative path is named, with where it was looked for."""
    shutil.copytree(trainings.data, tmp_path / "begun" / "corpus")
    (tmp_path / "elsewhere").mkdir()
    flags = [*FLAGS, "--warmup-steps", "0", "--train-data", "corpus", "--run-dir", "r"]
    monkeypatch.chdir(tmp_path / "begun")
    lumina(tmp_path, "train", *flags, "--steps", "1")
    monkeypatch.chdir(tmp_path / "elsewhere")
    more = ["train", "--resume", "../begun/r", "--steps", "2"]
    output = " ".join(lumina(tmp_path, *more, code=1).split())
    assert "E104" in output and "was begun with train_data corpus" in output
    assert str(tmp_path / "elsewhere" / "corpus") in output.replace(" ", "")
    assert "start from the folder" in output and "--train-data" in output
    lumina(tmp_path, *more, "--train-data", "../begun/corpus")
    assert len(rows(tmp_path / "begun" / "r")) == 2


def test_what_was_not_asked_for_is_not_said_to_be(copied):
    from lumina.train.resume import saved_config

    run = copied.folder / "run"

    def asked():
        return {k for k, v in saved_config(run).provenance.items() if v.chosen}

    before = asked()
    shown = lumina(copied.folder, "train", "--resume", run, "--steps", "14")
    said = " ".join(shown.split("\n  asked for ")[1].split("\n\n")[0].split())
    assert "steps (flag on resume" in said
    assert asked() == before | {"steps"}
    for leaf in ("nproc", "strict", "hang_timeout", "auto_resume"):
        assert leaf not in said
    lumina(copied.folder, "train", "--resume", run, "--steps", "15", "--strict")
    assert asked() == before | {"steps", "strict"}
