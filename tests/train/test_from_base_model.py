"""A reasoner of text that starts from a causal language model."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lumina.cli.main import main
from lumina.config import Config
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.model.build import build_network
from lumina.state.reader import latest_good, open_checkpoint
from lumina.train import Trainer
from tiny_runs import story

WIDTH = 32


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "story.txt"
    path.write_text(story())
    return path


def base_folder(folder: Path, kind: str, width: int = WIDTH) -> torch.Tensor:
    """A tiny random model as transformers saves it; returns its token vectors."""
    transformers = pytest.importorskip("transformers")
    tokenizer = Tokenizer.train([story()], 300)
    tokenizer.save(folder)
    vocabulary = tokenizer.vocab_size
    torch.manual_seed(0)
    if kind == "gpt2":
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                vocab_size=vocabulary, n_embd=width, n_layer=1, n_head=2, n_positions=64
            )
        )
        table = model.transformer.wte.weight
    else:
        model = transformers.LlamaForCausalLM(
            transformers.LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=width,
                intermediate_size=64,
                num_hidden_layers=1,
                num_attention_heads=2,
            )
        )
        table = model.model.embed_tokens.weight
    model.save_pretrained(folder)
    return table.detach().clone()


def command(text: Path, run: Path, base: str, **leaves: Any) -> list[str]:
    start = {
        "model": base,
        "train-data": text,
        "run-dir": run,
        "hidden-size": WIDTH,
        "num-heads": 4,
        "num-kv-heads": 4,
        "h-layers": 1,
        "l-layers": 1,
        "h-cycles": 1,
        "l-cycles": 1,
        "halt-max-steps": 2,
        "expansion": 1.0,
        "seq-length": 32,
        "batch-size": 2,
        "steps": 1,
        "learning-rate": 1e-30,
        "device": "cpu",
        "precision": "fp32",
        "weight-decay": 0,
        "seed": 4,
    } | leaves
    given = [part for k, v in start.items() for part in (f"--{k}", str(v))]
    return ["train", "--preset", "hrm_text", *given]


def run_command(arguments: list[str]) -> tuple[int, str]:
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        code = main(arguments)
    return code, out.getvalue()


def saved(run: Path) -> dict[str, torch.Tensor]:
    path = latest_good(run)
    assert path is not None
    with open_checkpoint(path) as reader:
        return {n: reader.tensor(n).clone() for n in reader.names()}


def told(run: Path) -> str:
    events = [json.loads(x) for x in (run / "events.jsonl").read_text().splitlines()]
    return next(e["message"] for e in events if e["kind"] == "base_model")


@pytest.mark.covers(
    "MOD-14: local folder", "MOD-14: supplies tokenizer and, where it fits, embeddings"
)
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_tokenizer_and_vectors_come_from_the_base(
    text: Path, tmp_path: Path, kind: str
) -> None:
    """The directions of its token vectors, at the size a reasoner begins with."""
    table = base_folder(tmp_path / "base", kind)
    run = tmp_path / "run"
    code, printed = run_command(command(text, run, str(tmp_path / "base")))
    assert code == 0, printed
    tensors = saved(run)
    rows = len(table)
    found = tensors["backbone.embedding.weight"][:rows]
    assert found.square().mean().sqrt().item() == pytest.approx(WIDTH**-0.5, rel=1e-3)
    scale = found.norm() / table.norm()
    torch.testing.assert_close(found, table * scale, rtol=1e-4, atol=1e-6)
    mine = Tokenizer.from_path(run / "tokenizer")
    assert mine.fingerprint == Tokenizer.from_path(tmp_path / "base").fingerprint
    assert f"{rows:,} token vectors" in told(run)
    assert "token vectors" in printed
    # The rest is what it would be without a base.
    spec = Config.load(run / "config.yaml")
    assert spec.train.init_from == str(tmp_path / "base")
    with open_checkpoint(latest_good(run)) as reader:  # type: ignore[arg-type]
        from lumina.model.spec import ModelSpec

        network = build_network(ModelSpec.from_dict(reader.meta.spec), seed=4)
    own = dict(network.named_parameters())
    for name in ("backbone.blocks.1.feedforward.down.weight", "objective.head.weight"):
        torch.testing.assert_close(tensors[name], own[name].detach())
    padding = own["backbone.embedding.weight"][rows:]
    torch.testing.assert_close(
        tensors["backbone.embedding.weight"][rows:], padding.detach()
    )


@pytest.mark.covers("MOD-14: supplies tokenizer and, where it fits, embeddings")
def test_vectors_of_another_width_are_left_and_it_says_so(
    text: Path, tmp_path: Path
) -> None:
    base_folder(tmp_path / "base", "gpt2", width=48)
    run = tmp_path / "run"
    code, printed = run_command(command(text, run, str(tmp_path / "base")))
    assert code == 0, printed
    assert "48 wide" in told(run) and "32 wide" in told(run)
    mine = Tokenizer.from_path(run / "tokenizer")
    assert mine.fingerprint == Tokenizer.from_path(tmp_path / "base").fingerprint


@pytest.mark.covers("MOD-14: causal-LM name")
def test_a_base_by_name_comes_from_the_hub_cache(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Laid out as the hub's client lays it out; offline, an unknown name is E107."""
    pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants

    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    snapshot = cache / "models--tiny-gpt2" / "snapshots" / "abc"
    base_folder(snapshot, "gpt2")
    refs = cache / "models--tiny-gpt2" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    run = tmp_path / "run"
    code, printed = run_command(command(text, run, "tiny-gpt2"))
    assert code == 0, printed
    assert "taken from tiny-gpt2" in told(run)
    code, printed = run_command(command(text, tmp_path / "no", "unknown-gpt2"))
    assert code == 1 and "E107" in printed


def test_what_cannot_be_taken_is_refused(text: Path, tmp_path: Path) -> None:
    code, printed = run_command(command(text, tmp_path / "a", "./nowhere/at all"))
    assert code == 1 and "E104" in printed
    (tmp_path / "odd").mkdir()
    save_file({"x": torch.zeros(2)}, tmp_path / "odd" / "model.safetensors")
    code, printed = run_command(command(text, tmp_path / "b", str(tmp_path / "odd")))
    assert code == 1 and "E102" in printed and "token vectors" in printed
    base_folder(tmp_path / "base", "gpt2")
    (tmp_path / "base" / "tokenizer.json").unlink()
    code, printed = run_command(command(text, tmp_path / "c", str(tmp_path / "base")))
    assert code == 1 and "tokenizer.json" in printed


def test_it_starts_from_a_run_of_its_own_kind_with_its_shape(
    text: Path, tmp_path: Path
) -> None:
    """Every weight; segments and exploration may change, the shape may not."""
    start = Config.resolve().replace(
        use_hrm=True,
        hrm_mode="language_model",
        train_data=(str(text),),
        hidden_size=WIDTH,
        num_heads=4,
        h_layers=1,
        l_layers=2,
        halt_max_steps=2,
        seq_length=32,
        tokenizer_vocab_size=300,
        batch_size=2,
        steps=1,
        device="cpu",
        precision="fp32",
        run_dir=str(tmp_path / "one"),
    )
    Trainer(start).train()
    again = Config.resolve().replace(
        init_from=str(tmp_path / "one"),
        train_data=(str(text),),
        halt_max_steps=3,
        batch_size=2,
        steps=1,
        learning_rate=1e-30,
        weight_decay=0.0,
        device="cpu",
        precision="fp32",
        run_dir=str(tmp_path / "two"),
    )
    Trainer(again).train()
    one, two = saved(tmp_path / "one"), saved(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name])
    row = json.loads((tmp_path / "two" / "metrics.jsonl").read_text().splitlines()[0])
    assert len(row["act.active_share"]) == 3
    with pytest.raises(LuminaError, match="l_layers 1 is not 2"):
        Trainer(again.replace(l_layers=1, run_dir=str(tmp_path / "x"))).train()
