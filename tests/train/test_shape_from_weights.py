"""A run from other weights has the tokenizer that the weights were made with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lumina.config import Config
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.export import export_for_inference
from lumina.state.weights import open_weights
from lumina.train import Trainer
from tiny_runs import Runs


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def test_a_reasoner_starts_from_a_reasoners_weights_alone(runs: Runs) -> None:
    transformer = str(runs.train(steps=1).folder)
    reasoner = {"use_hrm": True, "hrm_mode": "language_model", "steps": 1}
    small = {"h_layers": 1, "l_layers": 1, "halt_max_steps": 2}
    puzzles = Config(use_hrm=True, train_data=(str(runs.data),), init_from=transformer)
    with pytest.raises(LuminaError) as caught:
        Trainer(puzzles.replace(run_dir=str(runs.folder / "puzzles"))).train()
    message = caught.value.message
    assert caught.value.code == "E002"
    assert transformer in message and "not a reasoner's" in message
    base = runs.train(**reasoner, **small)
    run = runs.train(**reasoner, init_from=str(base.folder))
    assert run.tensors.keys() == base.tensors.keys()


@pytest.mark.parametrize("kind", ["a lone checkpoint", "an exported folder"])
def test_weights_without_a_tokenizer_are_refused(runs: Runs, kind: str) -> None:
    base = runs.train(steps=1)
    lone = runs.folder / "elsewhere" / "lone"
    if kind == "a lone checkpoint":
        shutil.copytree(base.folder / "checkpoints" / base.checkpoints[-1], lone)
    else:
        export_for_inference(base.folder, lone)
        (lone / "tokenizer.json").unlink()
        (lone / "tokenizer.model").write_bytes(b"not read here")
    leaves = {"init_from": str(lone), "tokenizer_vocab_size": None, "steps": 1}
    message = runs.refused("E104", **leaves)
    assert str(lone) in message and "tokenizer" in message

    its_own = open_weights(base.folder).tokenizer_folder
    run = runs.train(**leaves, tokenizer=str(its_own))
    begun = Tokenizer.from_path(run.folder).fingerprint
    assert begun == Tokenizer.from_path(its_own).fingerprint
