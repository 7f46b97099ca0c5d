"""Options of the model: shapes of tensors, and losses of the same initial weights."""

from __future__ import annotations

import re
from collections import defaultdict

import pytest
import torch

import lumina
from option_effects import shows
from tiny_runs import Run, Runs


def losses_differ(runs: Runs, leaf: str, *values: object, **beside: object) -> None:
    """The same weights and data give each value a loss of its own."""
    losses = [
        runs.train(**(beside | {leaf: value, "steps": 1})).first_loss
        for value in values
    ]
    for index, loss in enumerate(losses):
        for other in losses[:index]:
            assert loss != pytest.approx(other, abs=1e-5), losses


@shows("vocab_size")
def vocabulary(runs: Runs) -> None:
    small, large = runs.both("vocab_size", 320, 640)
    assert len(small.tensor("embedding.weight")) == 320
    assert len(large.tensor("embedding.weight")) == 640
    assert "vocab-size" in _hint(runs)


def _hint(runs: Runs) -> str:
    with pytest.raises(lumina.LuminaError) as caught:
        runs.train(vocab_size=64)
    assert caught.value.code == "E002"
    return caught.value.hint


@shows("hidden_size")
def width(runs: Runs) -> None:
    narrow, wide = runs.both("hidden_size", 32, 48)
    assert narrow.tensor("backbone.norm.weight").shape == (32,)
    assert wide.tensor("backbone.norm.weight").shape == (48,)


@shows("num_layers")
def layers(runs: Runs) -> None:
    one, three = runs.both("num_layers", 1, 3)
    for run, count in ((one, 1), (three, 3)):
        ups = [name for name in run.tensors if name.endswith(".up.weight")]
        assert len(ups) == count


@pytest.mark.covers("MOD-02: independent num_heads / num_kv_heads")
@shows("num_heads", "num_kv_heads", "head_dim")
def heads(runs: Runs) -> None:
    def rows(part: str, **shape: int) -> int:
        run = runs.train(steps=1, num_layers=1, **shape)
        return len(run.tensor(f"attention.{part}.weight"))

    assert rows("q", num_heads=2, head_dim=8, num_kv_heads=2) == 16
    assert rows("q", num_heads=4, head_dim=8, num_kv_heads=2) == 32
    assert rows("k", num_heads=4, head_dim=8, num_kv_heads=2) == 16
    assert rows("k", num_heads=4, head_dim=8, num_kv_heads=1) == 8
    assert rows("q", num_heads=4, head_dim=16, num_kv_heads=2) == 64


@pytest.mark.covers("MOD-06: intermediate_size")
@shows("intermediate_size")
def feedforward_width(runs: Runs) -> None:
    narrow, wide = runs.both("intermediate_size", 64, 96, num_layers=1)
    assert narrow.tensor("feedforward.up.weight").shape == (64, 32)
    assert wide.tensor("feedforward.up.weight").shape == (96, 32)


@pytest.mark.covers("TRN-02: --max-seq-len", "DAT-40: utilisation reported")
@shows("seq_length")
def row_length(runs: Runs) -> None:
    short, long = runs.both("seq_length", 32, 64)
    assert long.column("tokens")[-1] > 1.5 * short.column("tokens")[-1]
    for run, length in ((short, 32), (long, 64)):
        said = re.search(r"([\d.]+)% of positions used", " ".join(run.printed.split()))
        assert said is not None
        # Rows of the steps that were made stand for those of the whole epoch.
        used = run.column("tokens")[-1] / (len(run.rows) * 4 * length)
        assert used == pytest.approx(float(said[1]) / 100, abs=0.1)


@pytest.mark.covers("MOD-04: base/theta configurable")
@shows("rope_theta")
def rope_base(runs: Runs) -> None:
    losses_differ(runs, "rope_theta", 10_000, 10)


@pytest.mark.covers("MOD-04: length-extension scaling configurable")
@shows("rope_scaling")
def rope_kind(runs: Runs) -> None:
    losses_differ(
        runs, "rope_scaling", "linear", "ntk", "yarn", "llama3", rope_factor=4
    )


@pytest.mark.covers("MOD-04: length-extension scaling configurable")
@shows("rope_factor")
def rope_stretch(runs: Runs) -> None:
    losses_differ(runs, "rope_factor", 1, 2, 4, rope_scaling="linear")
    assert "rope_scaling" in _refusal(runs, rope_factor=2)


@pytest.mark.covers("MOD-04: length-extension scaling configurable")
@shows("rope_original_length")
def rope_trained_length(runs: Runs) -> None:
    yarn = {"rope_scaling": "yarn", "rope_factor": 4, "head_dim": 32}
    losses_differ(runs, "rope_original_length", 64, 1024, **yarn)
    assert "rope_scaling" in _refusal(
        runs, rope_original_length=64, rope_scaling="ntk", rope_factor=2
    )


@pytest.mark.covers("MOD-04: length-extension scaling configurable")
@shows("rope_low_freq_factor", "rope_high_freq_factor")
def rope_llama3(runs: Runs) -> None:
    """Between the two, frequencies are blended: each moves what is blended."""
    llama3 = {"rope_scaling": "llama3", "rope_factor": 8, "rope_original_length": 64}
    for leaf, values in (
        ("rope_low_freq_factor", (0.5, 3.0)),
        ("rope_high_freq_factor", (4.0, 12.0)),
    ):
        losses_differ(runs, leaf, *values, **llama3)
        assert leaf in _refusal(runs, **{leaf: 2.0})


def _refusal(runs: Runs, **leaves: object) -> str:
    with pytest.raises(lumina.LuminaError) as caught:
        runs.config(**leaves)
    assert caught.value.code == "E002"
    return caught.value.message


@shows("norm_eps")
def norm_epsilon(runs: Runs) -> None:
    losses_differ(runs, "norm_eps", 1e-5, 0.1)


@pytest.mark.covers("MOD-07: QK-norm as an option")
@shows("qk_norm")
def query_key_norm(runs: Runs) -> None:
    losses_differ(runs, "qk_norm", "none", "rms", "rms_full")
    shapes = {}
    for value in ("none", "rms", "rms_full", "l2"):
        run = runs.train(qk_norm=value, num_layers=1, steps=1)
        found = [v for name, v in run.tensors.items() if name.endswith("q_norm.weight")]
        shapes[value] = [tuple(weight.shape) for weight in found]
    assert shapes == {"none": [], "rms": [(16,)], "rms_full": [(32,)], "l2": [(2,)]}


@shows("block_style", "rotary_share")
def style(runs: Runs) -> None:
    """Other blocks have other tensors, and turn a part of each head."""
    plain = runs.train(steps=1)
    assert not any("feedforward.up.bias" in name for name in plain.tensors)
    learned = {"pos_encodings": "learned", "tie_embeddings": True, "steps": 1}
    gpt2 = runs.train(block_style="gpt2", **learned)
    assert any("feedforward_norm.bias" in name for name in gpt2.tensors)
    whole, half = runs.both("rotary_share", 1.0, 0.5, block_style="phi", steps=1)
    names = whole.tensors.keys()
    assert "objective.head.bias" in names
    assert not any("feedforward_norm" in name for name in names)
    assert whole.first_loss != half.first_loss


@shows("attention_bias")
def biases(runs: Runs) -> None:
    without, having = runs.both("attention_bias", False, True, num_layers=1)
    assert not any(name.endswith(".bias") for name in without.tensors)
    assert having.tensor("attention.q.bias").any()


@shows("mla_kv_rank", "mla_q_rank", "mla_rope_dim", "mla_value_dim")
def latent_attention(runs: Runs) -> None:
    def shapes(**leaves: int) -> dict[str, tuple[int, ...]]:
        run = runs.train(num_kv_heads=2, num_layers=1, steps=1, **leaves)
        stem = "backbone.blocks.0.attention."
        names = [name for name in run.tensors if name.startswith(stem)]
        found = {n.removeprefix(stem): tuple(run.tensors[n].shape) for n in names}
        return defaultdict(tuple, found)

    assert "kv_down.weight" not in shapes()
    usual = shapes(mla_kv_rank=12)
    assert usual["kv_down.weight"] == (12 + 8, 32) and usual["q.weight"] == (32, 32)
    assert usual["kv_up.weight"] == (2 * (8 + 8), 12)
    assert shapes(mla_kv_rank=12, mla_q_rank=6)["q_up.weight"] == (32, 6)
    turned = shapes(mla_kv_rank=12, mla_rope_dim=4)
    assert turned["kv_down.weight"] == (12 + 4, 32)
    narrow = shapes(mla_kv_rank=12, mla_value_dim=6)
    assert narrow["out.weight"] == (32, 2 * 6)
    assert "mla_kv_rank" in _refusal(runs, mla_q_rank=6)
    assert "num_kv_heads" in _refusal(runs, mla_kv_rank=12)


@pytest.mark.covers("MOD-08: --window-size (none/0 = full)")
@shows("window_size")
def window(runs: Runs) -> None:
    """Through one layer, a token sees as far back as the window reaches."""
    full, narrow = runs.both("window_size", 0, 4, num_layers=1, steps=1)
    assert full.first_loss != narrow.first_loss
    ids = torch.arange(12).unsqueeze(0) + 20
    changed = ids.clone()
    changed[0, 0] = 100
    for run, moved in ((full, 12), (narrow, 4)):
        network, _ = lumina.load(run.folder)
        with torch.no_grad():
            difference = (network.logits(ids) - network.logits(changed)).abs()
        assert (difference.amax(dim=(0, 2)) > 0).sum() == moved


def _moved(run: Run, place: int) -> list[int]:
    """The tokens of a row whose scores change with the token at a place."""
    ids = torch.arange(12).unsqueeze(0) + 20
    changed = ids.clone()
    changed[0, place] = 100
    network, _ = lumina.load(run.folder)
    with torch.no_grad():
        difference = (network.logits(ids) - network.logits(changed)).abs()
    return difference.amax(dim=(0, 2)).nonzero().flatten().tolist()


_ONE_LAYER = {"num_layers": 1, "steps": 1, "window_size": 3}


@shows("attention_sinks")
def sinks(runs: Runs) -> None:
    """Through one layer, the first tokens are seen by all later ones."""
    without, run = runs.both("attention_sinks", 0, 2, **_ONE_LAYER)
    assert without.first_loss != run.first_loss
    assert _moved(without, 1) == [1, 2, 3]
    assert _moved(run, 1) == list(range(1, 12))
    assert _moved(run, 2) == [2, 3, 4]
    assert "window_size is 0" in _refusal(runs, attention_sinks=2)


@shows("attention_dilation")
def dilation(runs: Runs) -> None:
    """Through one layer, a token is seen at every multiple of a distance."""
    without, run = runs.both("attention_dilation", 0, 4, **_ONE_LAYER)
    assert without.first_loss != run.first_loss
    assert _moved(run, 1) == [1, 2, 3, 5, 9]
    assert "window_size is 0" in _refusal(runs, attention_dilation=4)
    refused = _refusal(runs, window_size=3, attention_dilation=1)
    assert "every earlier token" in refused


@pytest.mark.covers("MOD-01: option to tie head and embedding")
@shows("tie_embeddings")
def tied(runs: Runs) -> None:
    two, one = runs.both("tie_embeddings", False, True)
    assert "objective.head.weight" in two.tensors
    assert "objective.head.weight" not in one.tensors


@pytest.mark.covers("MOD-01: dropout option")
@shows("dropout")
def dropped(runs: Runs) -> None:
    losses_differ(runs, "dropout", 0.0, 0.5)


@pytest.mark.covers("MOD-01: token embedding with optional scaling")
@shows("scale_embeddings")
def scaled(runs: Runs) -> None:
    losses_differ(runs, "scale_embeddings", False, True)


@pytest.mark.covers("MOD-10: --use-stable-embedding", "TRN-27: --use-stable-embedding")
@shows("use_stable_embedding")
def stable(runs: Runs) -> None:
    plain, normed = runs.both("use_stable_embedding", False, True)
    assert not [name for name in plain.tensors if "embedding_norm" in name]
    assert normed.tensor("embedding_norm.weight").std() > 0, "it does not learn"
    bound = (6 / (320 + 32)) ** 0.5  # Xavier's, but for what three steps added
    assert normed.tensor("embedding.weight").abs().max() < bound + 0.02


@pytest.mark.covers("MOD-05")
@shows("pos_encodings")
def positions(runs: Runs) -> None:
    """Four kinds, four losses; only one has a table, which learns."""
    losses_differ(runs, "pos_encodings", "rope", "learned", "sinusoidal", "none")
    run = runs.train(pos_encodings="learned", learning_rate=0.05)
    table = run.tensor("position_embedding.weight")
    assert table.shape == (32, 32)
    first = runs.train(pos_encodings="learned", learning_rate=1e-9, steps=1)
    moved = (table - first.tensor("position_embedding.weight")).abs()
    assert (moved.amax(dim=1)[:8] > 0.01).all()  # documents are short


@pytest.mark.covers("MOD-10: --init-std", "TRN-27: lower init std")
@shows("init_std")
def initial_spread(runs: Runs) -> None:
    for spread in (0.02, 0.2):
        run = runs.train(init_std=spread, learning_rate=1e-8, steps=1)
        found = run.tensor("embedding.weight").std().item()
        assert found == pytest.approx(spread, rel=0.05)
