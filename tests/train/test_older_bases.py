"""GPT-2 and Phi-2 class folders as frozen bases of adapters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lumina.assemble.program import Program
from lumina.cli.main import main
from lumina.data.tokenizer import Tokenizer
from lumina.infer.load import load
from lumina.model.stored import stored_pieces
from lumina.state.weights import open_weights
from state.test_older_folders import theirs
from tiny_runs import Runs, seen, story

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {
        "hidden_size": 32, "intermediate_size": 128, "num_heads": 4, "num_kv_heads": 4,
        "seq_length": 48, "tokenizer_vocab_size": None,
    },
    "phi": {
        "hidden_size": 64, "intermediate_size": 96, "num_heads": 4, "num_kv_heads": 4,
        "seq_length": 48, "tokenizer_vocab_size": None,
    },
}  # fmt: skip
"""Those of the weights; GPT-2's rows are as long as its table of positions."""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def base(kind: str, folder: Path) -> tuple[Any, Path]:
    """A model of transformers with a tokenizer beside it."""
    tokenizer = Tokenizer.train([story()], 300)
    model = theirs(kind, folder, vocab_size=tokenizer.vocab_size)
    tokenizer.save(folder)
    return model, folder


@pytest.mark.covers("MOD-40: frozen", "MOD-40: GPT-2", "MOD-40: 2.7B Phi-2 class model")
@pytest.mark.parametrize(
    "few", [{}, {"load_in_4bit": True}], ids=["16 and 32 bits", "4 bits"]
)
@pytest.mark.parametrize("kind", ["gpt2", "phi"])
def test_adapters_train_beside_it_and_go_on_to_the_bit(
    kind: str, few: dict[str, Any], runs: Runs, tmp_path: Path
) -> None:
    model, folder = base(kind, tmp_path / "base")
    found: list[Any] = []

    def looked(program: Program, _: Any) -> Any:
        style = program.plan.spec.style
        assert style is not None and style.name == kind
        return set(stored_pieces(program.network))

    started = SHAPES[kind] | few | {
        "init_from": str(folder), "use_peft": True, "lora_r": 4, "lora_dropout": 0.0,
    }  # fmt: skip
    straight = runs.train(seen(looked, found), steps=4, **started)
    losses = straight.column("loss")
    assert losses[-1] < losses[0]
    assert all(".adapters." in name for name in straight.tensors)
    trained = {name.split(".adapters.default.")[1] for name in straight.tensors}
    assert {"up_proj.a", "down_proj.b", "q_proj.a", "o_proj.b"} <= trained
    assert bool(found[0]) == bool(few)

    half = runs.train(steps=2, **started)
    gone_on = runs.train(resume=str(half.folder), run_dir=None, steps=4, **SHAPES[kind])
    assert gone_on.column("loss") == losses

    weights = open_weights(folder)
    held = open_weights(straight.folder)
    name = "backbone.blocks.0.attention_norm.bias"
    assert torch.equal(held.source.tensor(name), weights.source.tensor(name))
    network, tokenizer = load(straight.folder, "cpu")
    ids = torch.tensor([tokenizer.encode("The cat went to the")])
    moved = (network.logits(ids) - model(ids).logits).abs().max()
    assert float(moved) > 1e-4


def test_what_its_blocks_lack_is_refused_by_name(
    runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, folder = base("phi", tmp_path / "base")
    started = SHAPES["phi"] | {"init_from": str(folder), "use_peft": True}
    for option in (
        {"gradient_checkpointing": "attention"},
        {"feedforward_tile": 8},
        {"use_chunked_training": True},
    ):
        assert "block_style" in runs.refused("E002", **started, **option)
    run = runs.train(steps=1, **started, gradient_checkpointing="full")
    assert main(["export", str(run.folder), str(tmp_path / "out")]) == 2
    assert "has no place for style" in capsys.readouterr().err
    assert main(["generate", str(run.folder), "--prompt", "The", "--seed", "1",
                 "--max-new-tokens", "4", "--device", "cpu"]) == 0  # fmt: skip
