"""Rotary positions: what transformers computes, and what rotation promises."""

from __future__ import annotations

import pytest
import torch

from lumina.ops.rotary.reference import frequencies, rotate, tables


def llama_tables(head_dim, theta, parameters, seq_len=None, positions=None):
    """Cosine and sine as transformers makes them, halved like ours."""
    transformers = pytest.importorskip("transformers", reason="transformers is absent")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = transformers.LlamaConfig(
        hidden_size=head_dim * 2,
        num_attention_heads=2,
        max_position_embeddings=64,
        rope_parameters={"rope_theta": theta, **parameters},
    )
    kind = parameters["rope_type"]
    inverse, factor = ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=seq_len)
    angles = positions[:, :, None, None].float() * inverse
    return angles.cos() * factor, angles.sin() * factor


@pytest.mark.covers("MOD-04: length-extension scaling configurable")
@pytest.mark.parametrize("head_dim,theta", [(8, 10000.0), (64, 500000.0), (128, 1e4)])
@pytest.mark.parametrize("factor", [1.0, 4.0, 32.0])
@pytest.mark.parametrize("scaling", ["linear", "yarn"])
def test_extended_tables_equal_transformers(head_dim, theta, factor, scaling):
    positions = torch.randint(0, 4096, (2, 50))
    expected = llama_tables(
        head_dim,
        theta,
        {
            "rope_type": scaling,
            "factor": factor,
            "original_max_position_embeddings": 2048,
        },
        positions=positions,
    )
    got = tables(
        positions,
        *frequencies(
            head_dim, theta, scaling=scaling, factor=factor, original_length=2048
        ),
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.covers("MOD-04: length-extension scaling configurable")
@pytest.mark.parametrize("low,high", [(1.0, 4.0), (0.5, 6.0)])
@pytest.mark.parametrize("head_dim,theta", [(8, 10000.0), (128, 500000.0)])
def test_llama3_tables_equal_transformers(head_dim, theta, low, high):
    positions = torch.randint(0, 512, (2, 50))
    expected = llama_tables(
        head_dim,
        theta,
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "original_max_position_embeddings": 512,
            "low_freq_factor": low,
            "high_freq_factor": high,
        },
        positions=positions,
    )
    inverse, factor = frequencies(
        head_dim,
        theta,
        scaling="llama3",
        factor=8.0,
        original_length=512,
        low_freq_factor=low,
        high_freq_factor=high,
    )
    got = tables(positions, inverse, factor)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    plain, _ = frequencies(head_dim, theta)
    assert inverse[0] == plain[0] and inverse[-1] == plain[-1] / 8
    with pytest.raises(ValueError, match="llama3"):
        frequencies(head_dim, theta, scaling="llama3", factor=8.0)


@pytest.mark.covers("MOD-04: length-extension scaling configurable")
def test_ntk_raises_the_base_once():
    """transformers' dynamic scaling, at the length where its factor is ours."""
    positions = torch.randint(0, 512, (2, 50))
    factor = 4.0
    expected = llama_tables(
        16,
        10000.0,
        {"rope_type": "dynamic", "factor": factor},
        seq_len=int(64 * (2 * factor - 1) / factor),
        positions=positions,
    )
    got = tables(positions, *frequencies(16, 10000.0, scaling="ntk", factor=factor))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
    # The slowest pair turns `factor` times slower; the fastest is left alone.
    plain, _ = frequencies(16, 10000.0)
    scaled, _ = frequencies(16, 10000.0, scaling="ntk", factor=factor)
    assert scaled[0] == plain[0]
    torch.testing.assert_close(scaled[-1] * factor, plain[-1])


@pytest.mark.parametrize("scaling", ["none", "linear", "ntk", "yarn"])
def test_scores_depend_on_distance_only(scaling):
    torch.manual_seed(0)
    q, k = torch.randn(1, 1, 1, 16), torch.randn(1, 1, 1, 16)
    made = frequencies(16, 1e4, scaling=scaling, factor=2.0, original_length=64)

    def score(query, key):
        turned = [
            rotate(x, *tables(torch.tensor([[at]]), *made))
            for x, at in ((q, query), (k, key))
        ]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(score(7, 3), score(57, 53), rtol=1e-4, atol=1e-5)
    assert (score(7, 3) - score(7, 6)).abs() > 1e-2


def test_yarn_without_a_trained_length_is_refused():
    with pytest.raises(ValueError, match="yarn"):
        frequencies(16, 1e4, scaling="yarn", factor=2.0)


def test_half_precision_inputs_turn_in_float32():
    x = torch.randn(1, 40, 2, 16, dtype=torch.bfloat16)
    positions = torch.arange(1000, 1040).unsqueeze(0)
    cos, sin = tables(positions, *frequencies(16, 1e4))
    exact = rotate(x.double(), cos.double(), sin.double())
    got = rotate(x, cos, sin)
    assert got.dtype == torch.bfloat16
    # One rounding, at the end: half a unit in the last of bfloat16's eight bits.
    assert ((got.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-6).all()
