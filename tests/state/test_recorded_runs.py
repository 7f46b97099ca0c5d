"""What an earlier version wrote is opened and gone on with by this one.

Every archive in `tests/recorded` was made by `tools/recorded_runs.py` with the version
that it is named after. A test that fails here says that the runs people have on their
disks no longer go on as they would have; recording them again would only hide that.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch

import lumina
from lumina.cli.main import main
from lumina.data.store import TokenStore
from lumina.infer.load import load_solver
from training import events, rows, words

RECORDED = Path(__file__).parents[1] / "recorded"
KEPT = 3
"""The step of the checkpoint in every recording."""

NAMES = (
    "dense",
    "experts",
    "chat",
    "average-dropout-window",
    "bfloat16",
    "latent-attention-atan2",
    "depth",
    "hybrid",
    "recursion",
    "puzzles",
    "halting-language",
    "tasks",
    "fine-tuning",
    "epochs",
    "grown-experts",
    "named-expert",
)
SAME = ("step", "tokens", "epoch", "skipped")
CLOSE = ("loss", "eval_loss", "grad_norm", "learning_rate")
"""Of each row: what is equal, and what is equal but for rounding."""


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recorded")
    for file in ("deaef9c.tar.xz", "deaef9c-more.tar.xz"):
        with tarfile.open(RECORDED / file) as archive:
            archive.extractall(folder, filter="data")
    return folder


class Copies:
    """Copies of recordings, each the current folder with a cache of its own."""

    def __init__(
        self, recorded: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.recorded, self.folder, self.patch = recorded, folder, monkeypatch

    def __call__(self, name: str) -> Path:
        copy = self.folder / name
        shutil.copytree(self.recorded / name, copy)
        self.patch.chdir(copy)
        self.patch.setenv("LUMINA_CACHE", str(copy / "cache"))
        return copy


@pytest.fixture
def copied(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copies:
    return Copies(recorded, tmp_path, monkeypatch)


def go_on(copy: Path, name: str) -> None:
    """Resume to the end, and compare the steps after the checkpoint."""
    expected = rows(copy / "run")
    assert main(words("train --resume run")) == 0
    assert [e["step"] for e in events(copy / "run", "resumed")] == [KEPT]
    found = rows(copy / "run")
    assert found[:KEPT] == expected[:KEPT]
    assert len(found) == len(expected) > KEPT
    for new, old in zip(found[KEPT:], expected[KEPT:], strict=True):
        assert compared(new, SAME) == compared(old, SAME)
        # Another processor rounds sums of bfloat16 differently.
        tolerance = 1e-3 if name == "bfloat16" else 1e-6
        close = pytest.approx(compared(old, CLOSE), rel=tolerance)
        assert compared(new, CLOSE) == close


def compared(row: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: row[name] for name in names if name in row}


@pytest.mark.covers("CKP-08: migration of older checkpoint formats")
@pytest.mark.parametrize("name", NAMES)
def test_a_recorded_run_opens_and_goes_on_as_it_would_have(
    copied: Copies, name: str
) -> None:
    """Its data is named relative to the folder it is in now; nothing is cached."""
    copy = copied(name)
    shutil.rmtree(copy / "cache", ignore_errors=True)
    if name == "puzzles":
        network = load_solver("run", device="cpu")
    else:
        network, tokenizer = lumina.load("run", device="cpu")
        assert tokenizer.decode(tokenizer.encode("The cat")) == "The cat"
    assert all(torch.isfinite(p).all() for p in network.parameters())
    go_on(copy, name)


@pytest.mark.parametrize("name", ["dense", "chat"])
def test_recorded_tokens_are_used_or_made_again(copied: Copies, name: str) -> None:
    copy = copied(name)
    go_on(copy, name)
    assert_stores_are_whole(copy)


def test_damaged_recorded_tokens_are_made_again(copied: Copies) -> None:
    copy = copied("dense")
    (tokens,) = copy.glob("cache/stores/*/train/tokens.bin")
    damaged = bytearray(tokens.read_bytes())
    damaged[100] ^= 1
    tokens.write_bytes(damaged)
    go_on(copy, "dense")
    # Left where it is only when this version looks for its tokens under another name.
    if len(list(copy.glob("cache/stores/*/"))) == 1:
        assert_stores_are_whole(copy)


def assert_stores_are_whole(copy: Path) -> None:
    stores = list(copy.glob("cache/stores/*/*/"))
    assert stores
    for store in stores:
        TokenStore.open(store).verify()


@pytest.mark.parametrize("name", ["dense", "experts"])
def test_a_recorded_export_opens_with_the_logits_it_had(
    copied: Copies, name: str
) -> None:
    copy = copied(name)
    answer = json.loads((copy / "logits.json").read_text())
    network, _ = lumina.load("export", device="cpu")
    with torch.no_grad():
        logits = network.logits(torch.tensor([answer["ids"]]))[0, -1]
    torch.testing.assert_close(logits, torch.tensor(answer["logits"]))


def test_every_recording_is_tried(recorded: Path) -> None:
    assert sorted(p.name for p in recorded.iterdir()) == sorted(NAMES)
