"""`lumina checkpoints`: list, verify, compare, prune, consolidate."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lumina.cli.main import main
from lumina.config import Config
from lumina.observe.console import Console
from lumina.state.manifest import STATE_NAME, FileEntry, read_manifest, slot_key
from lumina.state.metrics import read_metrics
from lumina.state.reader import open_checkpoint, step_folders
from lumina.state.tensor_file import write_tensors
from lumina.train import Trainer
from tiny_runs import Run, Runs


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, lumina_cache: Path) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        runs = Runs(tmp_path_factory.mktemp("runs"), patch)
        return runs.train(
            steps=6,
            save_every_n_batches=1,
            save_total_limit=9,
            eval_every_n_batches=2,
            ema_decay=0.9,
        )


@pytest.fixture
def run(made: Run, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(made.folder, tmp_path / "run", symlinks=True))


def rewrite_state(path: Path, state: object) -> None:
    """Put another state.json into a checkpoint, and its digest into the manifest."""
    content = json.dumps(state).encode()
    (path / STATE_NAME).write_bytes(content)
    manifest = read_manifest(path)
    entry = FileEntry(len(content), hashlib.sha256(content).hexdigest())
    replace(manifest, files=manifest.files | {STATE_NAME: entry}).write(path)


def told(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    assert main(["checkpoints", *map(str, words)]) == code
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.mark.covers("CKP-15: metadata")
def test_all_are_listed_with_their_losses(run, made, capsys):
    found = json.loads(told(capsys, "list", run, "--json"))
    assert [one["name"] for one in found] == made.checkpoints
    rows = {row["step"]: row for row in made.rows}
    for one in found:
        assert one["loss"] == rows[one["step"]]["loss"]
        assert one["eval_loss"] == rows[one["step"]].get("eval_loss")
        folder = run / "checkpoints" / one["name"]
        files = [f for f in folder.iterdir() if f.name != "manifest.json"]
        assert one["bytes"] == sum(f.stat().st_size for f in files)
    assert "LATEST" in found[-1]["named_by"]
    assert sum("BEST" in one["named_by"] for one in found) == 1
    shown = told(capsys, "list", run)
    assert f"{found[0]['loss']:.4f}" in shown and "KiB" in shown
    (run / "checkpoints" / "step-00000003" / "manifest.json").write_text("{}")
    assert "damaged" in told(capsys, "list", run)
    assert "E104" in told(capsys, "list", run.parent / "nowhere", code=1)


@pytest.mark.covers("CKP-15: health")
def test_a_spoilt_byte_and_a_number_that_is_not_finite_are_found(run, capsys):
    good = told(capsys, "verify", run)
    assert good.count(": good; ") == 6 and "exp_avg" in good
    folder = run / "checkpoints" / "step-00000002"
    file = next(folder.glob("*.safetensors"))
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(data)
    shown = told(capsys, "verify", run, code=1)
    assert shown.count(": good; ") == 5
    assert "step-00000002" in shown and "sha256" in shown

    # Every digest is right, and yet nothing could be trained from it.
    sick = run / "checkpoints" / "step-00000004"
    with open_checkpoint(sick) as reader:
        manifest = reader.manifest
        name, entry = next(iter(manifest.optimizer["exp_avg"].items()))
        # Copies: the file is about to be written anew.
        held = load_file(sick / entry.file)
        tensors = {key: tensor.clone() for key, tensor in held.items()}
    tensors[slot_key("exp_avg", name)].view(-1)[0] = float("nan")
    written = write_tensors(sick / entry.file, tensors)
    manifest.files[entry.file] = type(manifest.files[entry.file])(
        written.bytes, written.sha256
    )
    manifest.write(sick)
    found = json.loads(told(capsys, "verify", sick, "--json", code=1))
    assert found[0]["problem"] == f"not finite: exp_avg of {name}"


def test_two_are_compared_tensor_by_tensor(run, capsys):
    first, last = (run / "checkpoints" / f"step-0000000{n}" for n in (1, 6))
    found = json.loads(told(capsys, "compare", first, last, "--json"))
    assert found["steps"] == [1, 6] and not found["settings"] and not found["only"]
    with open_checkpoint(first) as a, open_checkpoint(last) as b:
        for one in found["tensors"]:
            old, new = a.tensor(one["name"]), b.tensor(one["name"])
            expected = ((new - old).norm() / old.norm()).item()
            assert one["relative"] == pytest.approx(expected, rel=1e-4)
            assert one["largest"] == pytest.approx((new - old).abs().max().item())
    changes = [one["relative"] for one in found["tensors"]]
    assert changes == sorted(changes, reverse=True) and changes[0] > 0
    shown = told(capsys, "compare", first, run, "--most", 2)
    assert found["tensors"][0]["name"] in shown and "steps 1 and 6" in shown
    assert found["tensors"][-1]["name"] not in shown and "more (--most" in shown
    assert "0 of" in told(capsys, "compare", last, run)


def test_what_differs_in_shape_and_settings_is_named(made, tmp_path, capsys):
    with pytest.MonkeyPatch.context() as patch:
        wider = Runs(tmp_path, patch).train(intermediate_size=96, steps=1)
    found = json.loads(told(capsys, "compare", made.folder, wider.folder, "--json"))
    assert found["settings"]["intermediate_size"] == [64, 96]
    assert set(found["only"].values()) == {"both, in another shape"}
    assert all("feedforward" in name for name in found["only"])


def test_only_what_newer_ones_replace_is_deleted_and_only_with_yes(run, capsys):
    folder = run / "checkpoints"
    before = sorted(path.name for path in folder.iterdir())
    best = (folder / "BEST").read_text().strip()
    shown = told(capsys, "prune", run, "--keep", 0)
    assert sorted(path.name for path in folder.iterdir()) == before
    assert "would be freed" in shown and "step-00000001 would be deleted" in shown
    told(capsys, "prune", run, "--keep", 2, "--yes")
    left = {path.name for path in folder.glob("step-*")}
    assert left == {"step-00000005", "step-00000006", best}
    told(capsys, "prune", run, "--keep", 0, "--yes")
    left = {path.name for path in folder.glob("step-*")}
    assert left == {"step-00000006", best}
    assert "nothing to delete" in told(capsys, "prune", run, "--keep", 0)
    assert "E005" in told(capsys, "prune", run, "--keep", -1, code=2)


def test_a_run_that_is_trained_is_left_alone(run, capsys):
    from lumina.state.run_directory import RunDirectory

    with RunDirectory(run).acquire(resume=True):
        assert "E002" in told(capsys, "prune", run, "--keep", 0, "--yes", code=2)
    assert len(list((run / "checkpoints").glob("step-*"))) == 6


def test_the_weights_or_their_average_become_one_file(run, tmp_path, capsys):
    file = tmp_path / "all.safetensors"
    told(capsys, "consolidate", run, file)
    with open_checkpoint(run / "checkpoints" / "step-00000006") as reader:
        weights = {name: reader.tensor(name) for name in reader.names()}
        average = {n: reader.optimizer_tensor("ema", n) for n in reader.names()}
    found = load_file(file)
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert "E002" in told(capsys, "consolidate", run, file, code=2)
    told(capsys, "consolidate", run, tmp_path / "ema.safetensors", "--ema")
    found = load_file(tmp_path / "ema.safetensors")
    assert all(torch.equal(found[name], average[name]) for name in average)
    assert any(not torch.equal(found[name], weights[name]) for name in weights)
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == [
        "all.safetensors", "ema.safetensors",
    ]  # fmt: skip
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.covers("CKP-16: naming by epoch")
def test_the_epoch_of_each_checkpoint_is_listed(run, made, capsys):
    found = json.loads(told(capsys, "list", run, "--json"))
    epochs = {row["step"]: row["epoch"] for row in made.rows}
    assert [one["epoch"] for one in found] == [epochs[one["step"]] for one in found]
    assert "epoch" in told(capsys, "list", run).splitlines()[0]


@pytest.mark.covers("CKP-11: rollback manual")
def test_a_run_is_taken_back_and_nothing_is_lost(run, made, capsys):
    before = {
        path.relative_to(run): path.read_bytes() for path in run.rglob("*.safetensors")
    }
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    assert "--yes" in told(capsys, "rollback", run, "3")
    assert len(step_folders(run / "checkpoints")) == 6
    shown = told(capsys, "rollback", run, "3", "--yes")
    assert "steps 4 to 6 with 3 checkpoints" in shown
    kept = run / "undone" / "1"
    for path, content in before.items():
        there = run / path if (run / path).exists() else kept / path
        assert there.read_bytes() == content
    assert (run / "metrics.jsonl").read_bytes() == b"".join(lines[:3])
    assert (kept / "metrics.jsonl").read_bytes() == b"".join(lines[3:])
    assert (kept / "report.html").exists()
    assert (run / "checkpoints" / "LATEST").read_text() == "step-00000003\n"
    assert (run / "checkpoints" / "BEST").read_text() == "step-00000002\n"
    assert "steps 3 to 3 with 1 checkpoints" in told(capsys, "rollback", run, "best")
    assert "E304" in told(capsys, "rollback", run, "5", "--yes", code=1)


def test_a_run_that_was_taken_back_trains_the_same_steps_again(run, made, capsys):
    told(capsys, "rollback", run, "previous", "--yes")
    again = Trainer(
        Config(resume=str(run)), console=Console(stream=StringIO(), live=False)
    )
    again.train()
    rows = read_metrics(run)
    assert [row["loss"] for row in rows] == made.column("loss")
    status = json.loads((run / "status.json").read_text())
    assert status["status"] == "finished"


@pytest.mark.covers("CKP-15: compatibility")
def test_what_a_checkpoint_can_be_used_for_is_told(run, capsys):
    path = run / "checkpoints" / "step-00000004"
    shown = told(capsys, "analyze", path)
    for words in ("good", "regular", "adamw", "this version's", "can go on      yes"):
        assert words in shown, shown
    # A model that this version would build with other tensors.
    state = json.loads((path / "state.json").read_text())
    state["plan"]["spec"]["intermediate_size"] += 32
    rewrite_state(path, state)
    found = json.loads(told(capsys, "analyze", path, "--json", code=1))[0]
    assert found["problem"] is None
    assert found["compatibility"]["resumes"] is not None


@pytest.mark.covers("DIA-11", "CKP-15: --analyze-checkpoints")
def test_the_documents_flag_analyses_checkpoints(run, capsys):
    newest = run / "checkpoints" / "step-00000006"
    assert main(["--analyze-checkpoints", str(newest), "--json"]) == 0
    found = capsys.readouterr().out
    assert found == told(capsys, "analyze", newest, "--json")
    assert json.loads(found)[0]["path"] == str(newest)
    (newest / "manifest.json").write_text("{}")
    assert main(["--analyze-checkpoints", str(newest)]) == 1
