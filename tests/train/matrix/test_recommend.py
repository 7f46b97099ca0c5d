"""`lumina recommend`: settings that fit, and the rows that they rest on."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from lumina.cli.main import main
from lumina.cli.recommend import grouped
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.train.matrix.levers import LEVERS, by_cost
from lumina.train.matrix.recommend import recommend, support
from machines import gpu
from tiny_runs import Runs


def row(*features: str, status: str = "verified") -> dict[str, Any]:
    return {
        "cell": " + ".join(features), "features": list(features), "status": status,
        "options": {}, "why": "far off", "code": "", "date": "2026-11-30", "key": "k",
        "hardware": {"device": "cpu", "name": "a chip", "versions": {"torch": "2.13"}},
    }  # fmt: skip


def asked(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, Any]:
    assert main(["recommend", *words, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def planned(capsys: pytest.CaptureFixture[str], flags: str, card: str) -> int:
    """Exit code of `lumina plan` with the recommended flags."""
    words = flags.removeprefix("lumina train").split()
    code = main(["plan", *words, "--hardware-profile", card, "--show", "memory"])
    capsys.readouterr()
    return code


@pytest.mark.covers("MTX-38")
def test_what_is_recommended_fits_where_the_model_alone_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    words = ("--device", "8 GB", "--model", "b1", "--context", "2048")
    plain = "lumina train --preset b1 --seq-length 2048"
    assert planned(capsys, plain, "8 GB") == 1
    found = {goal: asked(capsys, *words, "--goal", goal) for goal in GOALS}
    for goal, one in found.items():
        assert one["planned_bound_bytes"] <= one["memory_bytes"], goal
        assert one["context"] == 2048
        assert planned(capsys, one["flags"], "8 GB") == 0, one["flags"]
    least, fast = found["memory"], found["speed"]
    assert least["planned_bytes"] < fast["planned_bytes"]
    assert len(fast["costs"]) < len(least["costs"])
    assert "optimizer" not in found["exact"]["options"]
    assert "does not keep every number" in found["exact"]["left_out"]["adamw_8bit"]


GOALS = ("speed", "memory", "exact")


@pytest.mark.covers("MTX-38")
def test_it_says_which_rows_it_rests_on_and_what_no_row_supports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    # Rows that come with Lumina are more from time to time.
    monkeypatch.setattr("lumina.features.measured.committed_rows", tuple)
    rows = tmp_path / "rows.jsonl"
    pair = ("tied_embeddings", "mixture_of_experts")
    rows.write_text(json.dumps(row(*pair)) + "\n")
    words = ["--device", "8 GB", "--rows", str(rows)]
    found = asked(capsys, *words)
    assert pair[0] in found["features"] and pair[1] in found["features"]
    assert " + ".join(pair) in [one["cell"] for one in found["rows"]]
    assert list(pair) not in [sorted(one) for one in found["unsupported"]]
    assert main(["recommend", *words]) == 0
    told = capsys.readouterr().out
    assert "verified on a chip, torch 2.13, 2026-11-30; not on cuda" in told
    assert "no row supports\n  " in told and "\n  flash_attention\n" in told
    assert main(["recommend", "--rows", str(tmp_path / "none")]) == 1


@pytest.mark.thorough
def test_a_setting_that_is_known_to_differ_is_not_used() -> None:
    config = Config(preset="b1", steps=10, seq_length=2048)
    machine = gpu(memory_bytes=8 * 2**30)
    free = recommend(config, machine, "memory", [])
    names = {lever.feature for lever in free.levers}
    assert {"adamw_8bit", "gradient_checkpointing_full"} <= names
    bad = row("adamw_8bit", status="differs")
    found = recommend(config, machine, "memory", [bad])
    assert "adamw_8bit" not in {lever.feature for lever in found.levers}
    assert "matrix found" in found.left_out["adamw_8bit"]
    pair = row("adamw_8bit", "gradient_checkpointing_full", status="failed")
    found = recommend(config, machine, "memory", [pair])
    kept = {lever.feature for lever in found.levers}
    assert not {"adamw_8bit", "gradient_checkpointing_full"} <= kept
    # It was mended since.
    good = row("adamw_8bit", "gradient_checkpointing_full")
    assert recommend(config, machine, "memory", [pair, good]).levers == free.levers


@pytest.mark.thorough
def test_a_model_that_fits_nowhere_is_refused_and_adapters_are_named() -> None:
    config = Config(preset="dense_350m", steps=10, seq_length=256)
    with pytest.raises(LuminaError, match="E20") as refused:
        recommend(config, gpu(memory_bytes=2**30), "speed", [])
    told = refused.value
    assert "settings that save memory and were used: " in told.message
    assert "--use-peft --load-in-4bit trains adapters beside frozen" in told.hint
    with pytest.raises(LuminaError, match="E20"):
        recommend(config, gpu(memory_bytes=2**28), "speed", [])


def test_support_names_every_pair_once() -> None:
    names = ("a", "b", "c", "d")
    rows = [row("a", "b", "c"), row("a", "b"), row("c", "d", status="differs")]
    behind, missing = support(names, rows)
    assert [one["cell"] for one in behind] == ["a + b + c"]
    assert missing == (("d",),)  # all its pairs go with it
    behind, missing = support(names, [*rows, row("d")])
    assert {pair for pair in missing} == {p for p in combinations(names, 2) if "d" in p}


@pytest.mark.thorough
def test_a_folder_gives_the_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Runs(tmp_path, monkeypatch).train(tie_embeddings=True)
    found = asked(capsys, "--device", "8 GB", "--model", str(run.folder))
    assert "tied_embeddings" in found["features"]
    assert found["flags"].startswith(f"lumina train --init-from {run.folder}")
    assert found["planned_bytes"] < 2**30


@pytest.mark.covers("MTX-38")
def test_adapters_are_planned_beside_weights_that_are_not_there_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    words = ("--hardware", "3 GB", "--model", "dense_350m", "--context", "8192")
    found = asked(capsys, *words, "--use-peft", "--load-in-4bit", "--no-compile")
    assert found["planned_bound_bytes"] <= found["memory_bytes"]
    assert {"adapters", "base_storage"} <= set(found["features"])
    begin = "lumina train --preset dense_350m --init-from WEIGHTS --seq-length 8192 "
    assert found["flags"].startswith(begin + "--use-peft --load-in-4bit --no-compile")
    # The batch of a fine-tuning, as `lumina train` takes it, and not the preset's.
    assert found["global_batch_size"] == 8 == found["tokens_a_step"] // 8192


def test_memory_of_the_host_is_another_machines_where_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    words = ("--hardware", "2 GB", "--model", "dense_125m", "--context", "1024")
    # States in host memory, the cheapest setting that fits, would take 711 MiB.
    poor = asked(capsys, *words, "--host-memory", "500 MiB")
    assert poor["elsewhere_bytes"].get("host", 0) < 500 * 2**20
    assert poor["planned_bound_bytes"] <= poor["memory_bytes"]
    assert main(["recommend", *words, "--host-memory", "much"]) == 2
    assert "'much' is no size" in capsys.readouterr().err
    # It is this machine's otherwise, and a lack of it says so.
    short = LuminaError("E202", "what lives beside it takes 90 GiB", "buy some")
    monkeypatch.setattr("lumina.train.matrix.recommend.recommend", _raiser(short))
    assert main(["recommend", *words]) == 1
    told = capsys.readouterr().err
    assert "the host memory is this machine's" in told and "buy some" in told
    assert main(["recommend", *words, "--host-memory", "64 GB"]) == 1
    assert "this machine's" not in capsys.readouterr().err


def _raiser(error: LuminaError) -> Any:
    def fail(*_: Any) -> None:
        raise error

    return fail


def test_a_step_of_many_more_tokens_than_the_presets_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    words = ("--hardware", "80 GB", "--model", "dense_10m", "--context")
    assert not asked(capsys, *words, "512")["warnings"]
    long = asked(capsys, *words, "8192")
    (told,) = (one for one in long["warnings"] if "the preset's has" in one)
    fewer = int(told.partition("--global-batch-size ")[2].split()[0])
    assert fewer * 16 == long["global_batch_size"]
    named = asked(capsys, *words, "8192", "--global-batch-size", str(fewer))
    assert not any("the preset's has" in one for one in named["warnings"])


def test_pairs_without_a_row_are_told_in_few_lines() -> None:
    sets = [["z"], ["a", "b"], ["a", "c"], ["b", "d"], ["c", "d"], ["a", "d"]]
    assert grouped(sets) == ["z", "a with b, c, d", "d with b, c"]
    assert grouped([]) == []


def test_several_devices_share_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    words = ("--hardware", "h200", "--model", "b7", "--context", "4096")
    found = asked(capsys, *words, "--devices", "8")
    assert found["parallel"] in ("zero2", "fsdp2") and "--nproc 8" in found["flags"]
    assert planned(capsys, found["flags"], "h200") == 0
    # One of them holds more, and has to save it.
    assert len(asked(capsys, *words)["options"]) > len(found["options"])


def test_what_is_asked_for_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A lever changes no option that was named."""
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path))
    words = ["--hardware", "8 GB", "--model", "b1", "--context", "2048"]
    free = asked(capsys, *words, "--optimizer", "adamw")
    assert free["left_out"]["adamw_8bit"] == "optimizer is set to adamw"
    assert "optimizer" not in free["options"]
    none = ["--gradient-checkpointing", "none"]
    named = asked(capsys, "--hardware", "24 GB", *words[2:], *none)
    assert named["left_out"]["gradient_checkpointing_full"].startswith("gradient_check")
    assert "--gradient-checkpointing none" in named["flags"]
    assert main(["recommend", *words, "--devices", "0"]) == 2
    assert "devices is 0" in capsys.readouterr().err


def test_only_settings_that_keep_every_number_are_exact() -> None:
    """A row a step and no clipping are another training."""
    changing = {lever.feature for lever in LEVERS if not lever.exact}
    assert changing == {"adamw_8bit", "optimizer_in_backward"}
    costs = list(by_cost(LEVERS[:3]))
    assert [len(one) for one in costs] == [0, 1, 1, 2, 1, 2, 2, 3]


def test_rows_of_the_same_kind_of_device_come_first() -> None:
    here = row("a", "b", "c", "d")
    here["hardware"] = {"device": "cuda", "name": "a card", "versions": {}}
    behind, missing = support(("a", "b"), [row("a", "b"), here], "cuda")
    assert [one["hardware"]["device"] for one in behind] == ["cuda"] and not missing
    behind, _ = support(("a", "b"), [here, row("a", "b")], "cpu")
    assert [one["features"] for one in behind] == [["a", "b"]]
