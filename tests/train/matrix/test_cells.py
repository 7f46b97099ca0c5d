"""Real cells: short trainings in processes of their own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.features.measured import committed_rows
from lumina.train.matrix.holding import held
from lumina.train.matrix.run import RESULTS


def rows(folder: Path) -> dict[str, dict]:
    lines = (folder / RESULTS).read_text().splitlines()
    return {row["cell"]: row for row in map(json.loads, lines)}


def matrix(folder: Path, *words: str) -> int:
    return main(["matrix", "--folder", str(folder), "--device", "cpu", *words])


def assert_performs(row: dict) -> None:
    """It takes no more memory than when its row was measured that Lumina comes with.

    In shares of the reference's, and of what is counted by tensors, so that it is the
    same wherever it runs. Time is measured beside it, and told and not compared.
    """
    before = [
        one["figures"]
        for one in committed_rows()
        if (one["features"], one["options"]) == (row["features"], row["options"])
        and (one["status"], one["hardware"]["device"]) == ("verified", "cpu")
    ]
    assert before, f"{row['cell']}: take its row with tools/matrix.py --take"
    now = row["figures"]
    shares = [one["memory"] / one["memory_reference"] for one in (now, before[-1])]
    assert shares[0] < 1.05 * shares[1]
    assert now["held"] <= before[-1]["held"]
    assert now["step_seconds"] > 0 and now["step_seconds_reference"] > 0


@pytest.mark.covers(
    "MTX-37: generated from executed tests",
    "MTX-37: record of hardware, versions, date and result per pair",
)
def test_a_cell_is_trained_once_and_its_row_says_how(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--only", "gradient_checkpointing_full", "fp8", "latent-attention")
    assert matrix(tmp_path, *words[:3]) == 0
    told = capsys.readouterr().out
    assert "[1/2] verified  gradient_checkpointing_full" in told
    assert "[2/2] untested: absent  fp8: fp8 needs a CUDA device" in told
    row = rows(tmp_path)["gradient_checkpointing_full"]
    figures = row["figures"]
    assert row["status"] == "verified" and row["steps"] >= 50
    assert figures["gradient_error"] < 1e-4
    # Less is kept for the backward pass, in the same run.
    assert figures["memory"] < 0.5 * figures["memory_reference"]
    assert figures["held"] == figures["held_reference"]
    assert figures["learned"] < 0.7 * figures["first_loss"]
    assert_performs(row)
    assert row["live"] == {"gradient_checkpointing_full": "plan, calls, computed again"}
    assert row["hardware"]["device"] == "cpu"
    assert {"lumina", "torch", "python"} <= row["hardware"]["versions"].keys()
    assert len(row["date"]) == 10
    # Nothing runs again: the file stays as it is, to the byte.
    before = (tmp_path / RESULTS).read_bytes()
    assert matrix(tmp_path, *words[:3]) == 0
    assert (tmp_path / RESULTS).read_bytes() == before


def test_a_refused_pair_is_a_row_with_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert matrix(tmp_path, "--pairs", "--only", "ema", "swa") == 0
    row = rows(tmp_path)["ema + swa"]
    assert (row["status"], row["code"]) == ("refused", "E002")
    assert "one kind of averaged weights" in row["why"]
    assert "refused E002  ema + swa" in capsys.readouterr().out


def test_no_cell_begins_after_the_time(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("--only", "qk_norm", "bf16", "--max-minutes", "0")
    assert matrix(tmp_path, *words) == 0
    assert not (tmp_path / RESULTS).read_text()
    assert "2 are left; the same command goes on with them" in capsys.readouterr().out


def test_one_process_works_in_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two would remove the runs that the other one compares with."""
    with held(tmp_path):
        assert matrix(tmp_path, "--only", "fp8") == 2
    assert f"another lumina matrix works in {tmp_path}" in capsys.readouterr().err
    assert matrix(tmp_path, "--only", "fp8") == 0


def test_what_was_absent_is_looked_for_again_and_written_once(tmp_path: Path) -> None:
    words = ("--only", "MTX-26 Qwen", "--tokenizers", str(tmp_path))
    for given in (words[:2], words[:2], words, words):
        assert matrix(tmp_path, *given) == 0
    (row,) = rows(tmp_path).values()
    assert row["status"] == "untested: absent"
    assert row["why"] == "needs qwen2 in the folder of --tokenizers"
    assert len((tmp_path / RESULTS).read_text().splitlines()) == 1


def test_an_unknown_name_is_refused_with_the_nearest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert matrix(tmp_path, "--only", "qk_nrom") == 2
    assert "did you mean 'qk_norm'?" in capsys.readouterr().err
    assert matrix(tmp_path, "--pairs", "--width", "1") == 2


LIAR = """
from lumina.features import Feature, Trial, register
register(Feature(
    name="liar", summary="says that it keeps the numbers", option="learning_rate",
    requested=lambda c: False, active=lambda p: p.learning_rate == 0.1,
    trial=Trial({"plugins": (%r,), "learning_rate": 0.1}),
))
register(Feature(
    name="idle", summary="is never called", option="seed",
    requested=lambda c: False, active=lambda p: p.seed == 1 and p.learning_rate < 0.1,
    trial=Trial({"plugins": (%r,)}, keeps=False),
))
"""


@pytest.mark.thorough
def test_a_plug_ins_feature_that_lies_is_found_out(tmp_path: Path) -> None:
    """One changes what is learned, the other one nothing; neither is verified."""
    from lumina.features import FEATURES

    plugin = tmp_path / "liar.py"
    plugin.write_text(LIAR % (str(plugin), str(plugin)))
    try:
        words = ("--plugins", str(plugin), "--only", "liar", "idle")
        assert matrix(tmp_path / "m", *words) == 1
    finally:
        FEATURES.pop("liar"), FEATURES.pop("idle")
    found = rows(tmp_path / "m")
    assert found["liar"]["status"] == "differs"
    assert "mean loss of the last 10 steps" in found["liar"]["why"]
    assert found["idle"]["why"] == "idle: the run without it is the same"


@pytest.mark.covers(
    "MTX-39: interactions (5)", "MTX-39: MoE (3)", "MTX-40: Combination tests in CI"
)
@pytest.mark.thorough
@pytest.mark.parametrize(
    "pair",
    [
        ("mixture_of_experts", "gradient_checkpointing_full"),
        ("mixture_of_experts", "bf16"),
        ("moe_capacity", "adamw_8bit"),
        ("gradient_checkpointing_full", "adamw_8bit"),
        ("chunked_training", "gradient_checkpointing_selective"),
    ],
)
def test_pairs_train_as_their_references(pair: tuple[str, str], tmp_path: Path) -> None:
    assert matrix(tmp_path, "--pairs", "--only", *pair) == 0
    (row,) = rows(tmp_path).values()
    assert row["status"] == "verified", row["why"]
    assert set(row["live"]) == set(pair) == set(row["features"])
    if pair == ("gradient_checkpointing_full", "adamw_8bit"):  # as MTX-05
        assert_performs(row)


@pytest.mark.covers("MTX-39: DDP (3)", "MTX-40: performance benchmarks")
@pytest.mark.thorough
@pytest.mark.parametrize(
    "beside", ["gradient_checkpointing_full", "bf16", "mixture_of_experts"]
)
def test_two_ranks_train_as_one(beside: str, tmp_path: Path) -> None:
    assert matrix(tmp_path, "--pairs", "--only", "ddp", beside) == 0
    (row,) = rows(tmp_path).values()
    assert (row["status"], row["ranks"]) == ("verified", 2), row["why"]
    figures = row["figures"]
    # Gradients of every parameter cross once, and weights and moments stay alike.
    assert figures["collectives"] >= 1 and figures["collective_seconds"] > 0
    assert figures["collective_numbers"] > 0.99 * figures["held"] / 16
    assert figures["states_agree"] == 1
    if beside != "mixture_of_experts":  # as MTX-07 and MTX-08
        assert_performs(row)


@pytest.mark.thorough
def test_a_reference_of_more_forwards_hides_no_recomputation(tmp_path: Path) -> None:
    """What recomputes is compared forward by forward."""
    names = ("moe_capacity", "ddp", "gradient_checkpointing_full")
    assert matrix(tmp_path, "--pairs", "--width", "3", "--only", *names) == 0
    found = rows(tmp_path).values()
    (row,) = [row for row in found if set(row["features"]) == set(names)]
    assert row["status"] == "verified", row["why"]


@pytest.mark.thorough
def test_gradients_of_divided_states_are_compared_whole(tmp_path: Path) -> None:
    """Each rank of zero1 has those of its rows alone."""
    assert matrix(tmp_path, "--only", "MTX-11 ZeRO-1") == 0
    (row,) = rows(tmp_path).values()
    assert (row["status"], row["ranks"]) == ("verified", 2), row["why"]
    assert row["figures"]["gradient_error"] < 1e-4
