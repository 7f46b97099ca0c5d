"""What refuses a run refuses its plan, in the same words; a plan leaves no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lumina import Config, Trainer
from lumina.cli.main import main
from lumina.errors import LuminaError
from lumina.train import room_on_disk
from lumina.train.start_checks import CHECKS, Beginning, register_check
from tiny_runs import Runs, story
from training import SHAPE, words


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


Make = Callable[[Path, pytest.MonkeyPatch], list[str]]


def launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a launcher starts the only process of a run."""
    for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "1")
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.setenv(name, "0")


def processes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    launched(monkeypatch)
    return words("--nproc 2")


def machines(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    launched(monkeypatch)
    return words("--num-nodes 2 --node-rank 0 --master-addr 127.0.0.1")


def supervised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    launched(monkeypatch)
    return words("--supervise")


def tracker(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr("lumina.observe.trackers.declared.installed", lambda _: False)
    return words("--trackers tensorboard")


def stop_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (folder / "stop").touch()
    return words("--stop-file stop")


def log_in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return words("--log-file .")


def log_below_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return words("--log-file text.txt/below/run.log")


def log_without_permission(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """As the system says it, which lets root write everywhere."""
    (folder / "locked").mkdir()
    monkeypatch.setattr(
        "lumina.observe.run_log.os.access", lambda path, _: path.name != "locked"
    )
    return words("--log-file locked/run.log")


def epochs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    (folder / "other.txt").write_text(story(50, 300))
    return words(
        "--train-data --sources one=text.txt two=other.txt --data-loading streaming "
        "--source-weights one=1 two=1 --stop-after-epoch"
    )


def disk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(room_on_disk, "free_bytes", lambda _: 10)
    return []


def nothing_held_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    Runs(folder, monkeypatch).train(steps=1, run_dir="base")
    return words(
        "--init-from base --use-peft --load-in-8bit --eval-fraction 0 "
        "--quantization-eval-batches 1"
    )


CASES: dict[str, tuple[Make, str, str]] = {
    "processes": (processes, "E002", "--nproc is 2"),
    "machines": (machines, "E002", "num_nodes is 2"),
    "supervised": (supervised, "E002", "two would restart it"),
    "trackers": (tracker, "E003", "needs the package"),
    "stop_file": (stop_file, "E002", "is there already"),
    "log_file": (log_in_folder, "E104", "Is a directory"),
    "log_file below a file": (log_below_file, "E104", "Not a directory"),
    "log_file forbidden": (log_without_permission, "E106", "Permission denied"),
    "epochs": (epochs, "E002", "the data has no epochs"),
    "room_on_disk": (disk, "E204", "what is trained could not be kept"),
    "cost_of_few_bits": (nothing_held_out, "E002", "nothing is held out"),
}


def test_every_check_has_a_bad_setting() -> None:
    assert set(CHECKS.own) == {name.split()[0] for name in CASES} - {"machines"}


@pytest.mark.covers("TRN-37: pre-flight validation")
@pytest.mark.parametrize("case", CASES)
def test_plan_and_dry_run_refuse_what_train_refuses(
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make, code, said = CASES[case]
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text(story())
    asked = make(tmp_path, monkeypatch)
    base = [*SHAPE, *words("--steps 4 --run-dir run")]
    if "--train-data" not in asked:
        base += words("--train-data text.txt")
    asked = [one for one in asked if one != "--train-data"]
    before = sorted(tmp_path.rglob("*"))
    found = []
    for command in (["plan"], ["train", "--dry-run"], ["train"]):
        ended = main([*command, *base, *asked])
        printed = capsys.readouterr().err
        assert code in printed, printed
        found.append((ended, printed[printed.index(code) :]))
        assert sorted(tmp_path.rglob("*")) == before, command
    assert found[0][0] and said in found[0][1]
    assert found[0] == found[1] == found[2]


def test_what_the_command_starts_itself_stands_in_no_way_of_a_plan(
    tiny_config: Config, tmp_path: Path
) -> None:
    """Python starts one process, and no supervisor; the command both."""
    for asked, said in (
        ({"nproc": 2, "batch_size": 2}, "asked of a single process"),
        ({"supervise": True}, "asked for in Python"),
    ):
        config = tiny_config.replace(**asked)
        plan, _, _ = Trainer(config).explain()
        assert plan.world_size == asked.get("nproc", 1)
        with pytest.raises(LuminaError, match=said):
            Trainer(config).train()
    assert not (tmp_path / "run").exists()


def test_a_plan_for_other_hardware_does_not_ask_this_machine(
    tiny_config: Config, tmp_path: Path
) -> None:
    """Its files are not those of the machine that will train."""
    (tmp_path / "stop").touch()
    config = tiny_config.replace(stop_file=str(tmp_path / "stop"))
    _, machine, _ = Trainer(tiny_config).explain()
    Trainer(config).explain(machine)
    with pytest.raises(LuminaError, match="is there already"):
        Trainer(config).explain()


def test_a_finished_run_trains_nothing_and_is_not_refused(runs: Runs) -> None:
    run = runs.train(steps=1)
    (runs.folder / "stop").touch()
    leaves = {"steps": 1, "resume": str(run.folder), "run_dir": None}
    config = runs.config(**leaves, stop_file=str(runs.folder / "stop"))
    assert Trainer(config).train().exit_code == 0
    Trainer(config).explain()
    for ask in (Trainer.train, Trainer.explain):
        with pytest.raises(LuminaError, match="is there already"):
            ask(Trainer(config.replace(steps=2)))


def test_bases_that_cannot_be_compared_are_refused_in_the_plan(runs: Runs) -> None:
    base = runs.train(steps=1)
    asked = {"init_from": str(base.folder), "use_peft": True, "load_in_8bit": True}
    asked |= {"quantization_eval_batches": 1, "eval_fraction": 0.3}
    Trainer(runs.config(**asked)).explain()
    for wrong, said in (
        ({"eval_fraction": 0.0}, "nothing is held out"),
        ({"nproc": 2, "batch_size": 2, "parallel": "fsdp2"}, "divided over ranks"),
    ):
        with pytest.raises(LuminaError, match=said) as found:
            Trainer(runs.config(**(asked | wrong))).explain()
        assert found.value.code == "E002"


def test_a_check_of_ones_own_is_made_by_both(tiny_config: Config) -> None:
    @register_check("my_check", "decided")
    def refuse(beginning: Beginning) -> None:
        assert beginning.prepared is not None
        raise LuminaError("E002", f"{beginning.prepared.plan.steps} steps", "none")

    try:
        for ask in (Trainer.train, Trainer.explain):
            with pytest.raises(LuminaError, match="10 steps"):
                ask(Trainer(tiny_config))
    finally:
        del CHECKS["my_check"]
    with pytest.raises(LuminaError, match="already has a check 'epochs'"):
        register_check("epochs", "asked")(refuse)
