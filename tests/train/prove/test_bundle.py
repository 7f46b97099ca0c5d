"""`lumina prove`: what a bundle holds, how it is gone on with, and its verdicts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from lumina.cli.main import main
from lumina.errors import LuminaError
from lumina.train.prove import loss_parity
from lumina.train.prove.bundle import Bundle
from lumina.train.prove.groups import GROUPS, OTHER, group_of, grouped
from lumina.train.prove.piece import ORDER, PIECES, Amounts, Asked, Piece, chosen_pieces
from training import start, wait_until

SMALL = [
    "--no-use-moe", "--hidden-size", "32", "--intermediate-size", "64",
    "--num-layers", "2", "--num-heads", "2", "--num-kv-heads", "1",
    "--vocab-size", "320", "--seq-length", "32", "--batch-size", "2",
    "--global-batch-size", "4", "--precision", "fp32", "--device", "cpu",
]  # fmt: skip
FEW = [
    "--warm-up", "1", "--timed-steps", "2", "--loss-steps", "4", "--seeds", "2",
    "--rounds", "1",
]  # fmt: skip


def results(folder: Path) -> dict[str, dict[str, Any]]:
    return {
        path.stem: json.loads(path.read_text())["result"]
        for path in (folder / "pieces").glob("*.json")
    }


def test_a_bundle_has_figures_a_page_and_the_way_to_measure_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    words = ["prove", *SMALL, *FEW, "--out", str(out), "--tar", "--pieces"]
    assert main([*words, "environment", "floor"]) == 0
    assert "whole" in capsys.readouterr().out
    found = results(out)
    # What the floor rests on is measured, though it was not named.
    assert set(found) == {"environment", "ceilings", "speed", "floor"}
    floor = found["floor"]
    assert floor["seconds"] == pytest.approx(sum(x["seconds"] for x in floor["lines"]))
    assert floor["share"] == pytest.approx(
        floor["seconds"] / found["speed"]["step"]["median"]
    )
    products = floor["lines"][0]
    rate = found["ceilings"]["flops"]
    assert products["seconds"] == pytest.approx(products["operations"] / rate)
    assert found["environment"]["packages"]["torch"]
    page = (out / "README.md").read_text()
    for text in ("## Floor", "matrix products", "tokens/s", "because"):
        assert text in page
    assert (out / "rerun.sh").stat().st_mode & 0o100
    measured_again(out, tmp_path, capsys)
    with tarfile.open(tmp_path / "bundle.tar.gz") as archive:
        assert "bundle/pieces/floor.json" in archive.getnames()


def measured_again(out: Path, beside: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What rerun.sh asks `lumina` for, and that this goes on with the bundle."""
    (beside / "lumina").write_text(
        '#!/bin/sh\nfor word; do echo "$word"; done > asked\n'
    )
    (beside / "lumina").chmod(0o755)

    def asked(*words: str) -> list[str]:
        place = {**os.environ, "PATH": f"{beside}:{os.environ['PATH']}"}
        command = ["sh", str(out / "rerun.sh"), *words]
        subprocess.run(command, cwd=beside, env=place, check=True)
        return (beside / "asked").read_text().splitlines()

    plain = asked()
    assert plain[-2:] == ["--out", "again"]
    assert asked("second") == [*plain[:-1], "second"]
    assert asked("--pieces", "floor") == [*plain, "--pieces", "floor"]
    assert asked("second", "--pieces", "floor")[-3:] == ["second", "--pieces", "floor"]
    missing = asked("--missing", "--pieces", "environment")
    assert missing[-4:] == ["--out", str(out), "--pieces", "environment"]
    (out / "pieces" / "environment.json").unlink()
    ceilings = (out / "pieces" / "ceilings.json").read_bytes()
    assert main(asked("--missing", "--pieces", "environment", "floor")) == 0
    assert (out / "pieces" / "environment.json").is_file()
    assert "ceilings: done before" in "".join(capsys.readouterr())
    assert (out / "pieces" / "ceilings.json").read_bytes() == ceilings


def test_the_profile_says_where_the_time_goes_by_group(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    words = ["prove", *SMALL, *FEW, "--out", str(out), "--pieces", "profile"]
    assert main(words) == 0
    groups = {row["group"]: row for row in results(out)["profile"]["groups"]}
    assert sum(row["share"] for row in groups.values()) == pytest.approx(1)
    for name in ("products", "attention", "optimizer", "norms"):
        assert groups[name]["seconds"] > 0, name
    assert (out / "trace.json.gz").is_file()


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("aten::mm", "products"),
        ("nvjet_hsh_128x256_64x4_1x2_h_bz_coopA_NNT", "products"),
        ("pytorch_flash::flash_bwd_dq_dk_dv_loop_seqk_parallel_kernel", "attention"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "attention"),
        ("_adamw_kernel", "optimizer"),
        ("aten::_fused_rms_norm", "norms"),
        ("_softmax_gradient_kernel", "loss"),
        ("triton_poi_fused_mul_silu_3", "elementwise"),
        ("Memcpy DtoD (Device -> Device)", "copies"),
        ("ncclDevKernel_AllReduce_Sum_f32", "exchange"),
        ("something", OTHER),
    ],
)
def test_operations_are_grouped_by_their_names(name: str, group: str) -> None:
    assert group_of(name) == group
    assert group in (OTHER, *(one for one, _ in GROUPS))


def test_groups_add_up() -> None:
    rows = grouped(
        [{"name": "aten::mm", "seconds": 3.0}, {"name": "bmm", "seconds": 1.0},
         {"name": "aten::copy_", "seconds": 4.0}]
    )  # fmt: skip
    assert {row["group"]: row["share"] for row in rows} == {
        "copies": 0.5,
        "products": 0.5,
    }


def counted(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[str]:
    """Pieces that do nothing but say that they ran."""
    ran: list[str] = []

    def make(name: str) -> Piece:
        def run(asked: Asked) -> dict[str, Any]:
            ran.append(name)
            return {"of": name, "sees": sorted(asked.done)}

        return Piece(name, run, lambda found: [found["of"]])

    for name in names:
        monkeypatch.setitem(PIECES, name, make(name))
    return ran


def bundle_of(folder: Path, **changes: Any) -> Bundle:
    from lumina.config import Config

    config = Config(hidden_size=32, **changes)
    return Bundle(folder, config, Amounts(), ())


def asked_of(bundle: Bundle, stopped: Any = lambda: False) -> Asked:
    return Asked(
        bundle.config, bundle.amounts, (), bundle.folder, lambda text: None, stopped
    )


def test_what_was_measured_is_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = counted(monkeypatch, "environment", "ceilings", "speed")
    pieces = chosen_pieces(("environment", "ceilings", "speed"))
    first = bundle_of(tmp_path / "b")
    # Interrupted when two pieces are done.
    assert first.measure(pieces, asked_of(first, lambda: len(ran) == 2)) == {}
    assert ran == ["environment", "ceilings"]
    assert not first.write_page(pieces, {})
    page = (tmp_path / "b" / "README.md").read_text()
    assert "Not there: not measured yet" in page
    again = bundle_of(tmp_path / "b")
    assert again.measure(pieces, asked_of(again)) == {}
    assert ran == ["environment", "ceilings", "speed"]
    assert results(tmp_path / "b")["speed"]["sees"] == ["ceilings", "environment"]
    assert again.write_page(pieces, {})


def test_a_piece_that_fails_does_not_end_the_others_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = counted(monkeypatch, "environment", "ceilings", "speed", "floor")

    def fails(asked: Asked) -> dict[str, Any]:
        raise LuminaError("E201", "no room", "use less")

    whole = PIECES["ceilings"]
    monkeypatch.setitem(PIECES, "ceilings", Piece("ceilings", fails, whole.page))
    needy = Piece("floor", PIECES["floor"].run, whole.page, after=("ceilings",))
    monkeypatch.setitem(PIECES, "floor", needy)
    pieces = chosen_pieces(("environment", "ceilings", "speed", "floor"))
    bundle = bundle_of(tmp_path / "b")
    failed = bundle.measure(pieces, asked_of(bundle))
    assert failed == {
        "ceilings": "E201: no room",
        "floor": "needs ceilings, which is not there",
    }
    assert ran == ["environment", "speed"]
    assert not bundle.write_page(pieces, failed)
    assert "E201: no room" in (tmp_path / "b" / "README.md").read_text()
    monkeypatch.setitem(PIECES, "ceilings", whole)
    pieces = chosen_pieces(("environment", "ceilings", "speed", "floor"))
    assert bundle.measure(pieces, asked_of(bundle)) == {}
    assert ran == ["environment", "speed", "ceilings", "floor"]


def test_a_bundle_of_other_settings_is_refused(tmp_path: Path) -> None:
    bundle_of(tmp_path / "b")
    with pytest.raises(LuminaError, match="has other settings") as caught:
        bundle_of(tmp_path / "b", num_layers=3)
    assert caught.value.code == "E002"
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    with pytest.raises(LuminaError, match="is no bundle"):
        bundle_of(tmp_path / "full")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--pieces", "nothing"], "there is no piece 'nothing'"),
        (["--seeds", "1"], "seeds is 1"),
        (["--blocks", "1"], "blocks is 1"),
    ],
)
def test_what_makes_no_sense_is_refused_and_leaves_nothing(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    assert main(["prove", *SMALL, "--out", str(out), *words]) == 2
    assert says in capsys.readouterr().err and not out.exists()


def test_a_training_that_learns_otherwise_is_outside_the_band(tmp_path: Path) -> None:
    """The same comparison with the rate of the planned training raised unseen."""
    plain = loss_parity.reference_of

    def slower(plan: Any) -> Any:
        return plain(plan).replace(learning_rate=plan.learning_rate / 4)

    out = tmp_path / "bundle"
    words = ["prove", *SMALL, *FEW, "--out", str(out), "--pieces", "losses"]
    words += ["--warmup-steps", "0", "--learning-rate", "3e-3", "--loss-steps", "8"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_parity, "reference_of", slower)
        assert main(words) == 0
    losses = results(out)["losses"]
    assert [one["seed"] for one in losses["seeds"]] == [42, 43]
    assert losses["difference"] < -losses["band"] and not losses["inside"]
    assert "**OUTSIDE**" in (out / "README.md").read_text()


@pytest.mark.thorough
def test_a_training_that_learns_as_the_reference_is_inside_the_band(
    tmp_path: Path,
) -> None:
    out = tmp_path / "bundle"
    words = ["prove", *SMALL, *FEW, "--out", str(out), "--pieces", "losses"]
    assert main(words) == 0
    losses = results(out)["losses"]
    assert abs(losses["difference"]) < 1e-4 < losses["band"] and losses["inside"]
    assert "**inside**" in (out / "README.md").read_text()


def test_the_band_is_the_spread_of_the_reference_over_seeds() -> None:
    rows = [
        {"reference": 2.0, "fast": 2.1},
        {"reference": 2.2, "fast": 2.3},
    ]
    found = loss_parity.verdict(rows)
    assert found["difference"] == pytest.approx(0.1)
    assert found["band"] == pytest.approx(0.1414, abs=1e-4) and found["inside"]
    assert not loss_parity.verdict([{**r, "fast": r["fast"] + 0.1} for r in rows])[
        "inside"
    ]


@pytest.mark.thorough
def test_ctrl_c_leaves_what_was_measured_and_the_same_command_goes_on(
    tmp_path: Path,
) -> None:
    out = tmp_path / "bundle"
    words = ["prove", *SMALL, "--out", str(out), "--loss-steps", "100000"]
    words += ["--pieces", "environment", "losses"]
    running = start(words, tmp_path / "log")
    wait_until((out / "pieces" / "environment.json").exists, running)
    wait_until(lambda: "losses: seed 42, reference" in running.output, running)
    running.send(signal.SIGINT)
    assert running.wait() == 130, running.output
    assert [p.name for p in (out / "pieces").iterdir()] == ["environment.json"]
    assert "goes on" in running.output
    again = start([*words, "--pieces", "environment"], tmp_path / "log2")
    assert again.wait() == 0, again.output
    assert "environment: done before" in again.output


@pytest.mark.thorough
def test_the_script_of_a_bundle_measures_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os
    import sys

    out = tmp_path / "bundle"
    words = ["prove", *SMALL, *FEW, "--blocks", "2", "--out", str(out)]
    assert main([*words, "--pieces", "environment"]) == 0
    folder = Path(sys.executable).parent
    assert shutil.which("lumina", path=str(folder))
    place = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", str(out / "rerun.sh"), "second"], cwd=tmp_path, env=place, check=False
    )
    assert done.returncode == 0
    first, second = results(out), results(tmp_path / "second")
    assert set(second) == set(ORDER)
    assert second["environment"]["plan"]["spec"] == first["environment"]["plan"]["spec"]
    assert second["peers"]["peers"][0]["ratio"]["interval"]
