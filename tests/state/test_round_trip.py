"""Any shape of any family goes out and comes back bit by bit."""

from __future__ import annotations

import tempfile
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lumina.model.build import build_network
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.state.huggingface import export_folder, import_folder
from lumina.state.huggingface.export import _opened
from lumina.state.huggingface.formats import FORMATS, fits

TRAINING_ONLY = ("dropout", "init_std", "seq_length")


@st.composite
def shapes(draw, name):
    """A small shape that the family `name` holds."""
    row = FORMATS[name]
    pick = lambda *values: draw(st.sampled_from(values))  # noqa: E731
    kv_heads = pick(1, 2, 3)
    heads = kv_heads * pick(1, 2)
    head_dim = 2 * draw(st.integers(2, 6))
    width = heads * head_dim if row.heads == "fill" else heads * pick(4, 6, 10)
    layers = draw(st.integers(1, 4))
    vocab = draw(st.integers(5, 140))
    spec = ModelSpec(
        vocab_size=vocab,
        padded_vocab_size=-(-vocab // 64) * 64,
        hidden_size=width,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=draw(st.integers(1, 30)),
        seq_length=draw(st.integers(8, 64)),
        norm_eps=pick(1e-6, 1e-5),
        rope_theta=pick(1e4, 5e5),
        tie_embeddings=draw(st.booleans()),
        window_size=draw(st.integers(0, 9)) if "window_size" in row.free else 0,
        **row.fixed,
    )
    if pick("none", "linear") == "linear":
        spec = replace(spec, rope_scaling="linear", rope_factor=pick(2.0, 8.0))
    if "mla_kv_rank" in row.free:
        rope = 2 * draw(st.integers(1, head_dim // 2 - 1))
        spec = replace(
            spec,
            num_kv_heads=heads,
            mla_kv_rank=draw(st.integers(1, 20)),
            mla_q_rank=draw(st.integers(0, 20)),
            mla_rope_dim=rope,
            mla_value_dim=draw(st.integers(1, head_dim)),
        )
    return spec if row.experts is None else replace(spec, moe=_moe(draw, row, layers))


def _moe(draw, row, layers):
    groups = draw(st.integers(1, 3)) if "groups" in row.experts.free else 1
    experts = groups * draw(st.integers(2, 4))
    chosen = draw(st.integers(1, groups))
    first = draw(st.integers(0, layers - 1))
    if row.experts.layers == "any":
        routed = st.sets(st.integers(0, layers - 1), min_size=1)
        places = tuple(sorted(draw(routed)))
    else:
        places = tuple(range(0 if row.experts.layers == "all" else first, layers))
    if chosen == groups:
        groups = chosen = 1
    free = {
        "normalise_top_k": draw(st.booleans()),
        "score_scale": draw(st.sampled_from([1.0, 2.5])),
        "shared_experts": draw(st.integers(1, 3)),
        "groups": groups,
        "top_groups": chosen,
    }
    free = {key: value for key, value in free.items() if key in row.experts.free}
    return MoeSpec(
        num_experts=experts,
        top_k=draw(st.integers(1, experts // groups * chosen)),
        intermediate_size=draw(st.integers(1, 20)),
        layers=places,
        bias_update_rate=1e-3 if row.experts.bias else 0.0,
        **(dict(row.experts.fixed) | free),
    )


def free_of(name):
    return FORMATS[name].experts.free


@pytest.mark.parametrize("name", FORMATS)
@settings(max_examples=8)
@given(data=st.data())
def test_no_tensor_and_no_bit_is_lost(name, data):
    spec = data.draw(shapes(name))
    assert fits(spec, FORMATS[name])
    network = build_network(spec, seed=data.draw(st.integers(0, 99)))
    with torch.no_grad():
        for tensor in (*network.parameters(), *network.buffers()):
            tensor.normal_()
    limit = data.draw(st.sampled_from([10**9, 4096]))
    with tempfile.TemporaryDirectory() as place:
        folder = export_folder(
            network, None, Path(place) / "x", format_name=name, shard_bytes=limit
        )
        back_spec, back = import_folder(folder)
        again = export_folder(
            (back_spec, back.__getitem__), None, Path(place) / "y",
            format_name=name, shard_bytes=limit,
        )  # fmt: skip
        for file in folder.iterdir():
            assert file.read_bytes() == (again / file.name).read_bytes(), file.name
    # Where all layers are routed nothing has the dense width.
    dense = spec.moe is None or len(spec.moe.layers) < spec.num_layers
    unused = () if dense else ("intermediate_size",)
    for one in fields(ModelSpec):
        if one.name not in (*TRAINING_ONLY, *unused, "moe"):
            assert getattr(back_spec, one.name) == getattr(spec, one.name), one.name
    if spec.moe is not None:
        routing = (*free_of(name), "num_experts", "top_k", "layers", "score")
        for field in routing:
            assert getattr(back_spec.moe, field) == getattr(spec.moe, field), field
    _, read = _opened(network)
    expected = {n for n in back if not n.endswith(".load")}
    for key in expected:
        rows = spec.vocab_size if "embedding" in key or "head" in key else None
        assert torch.equal(back[key][:rows], read(key)[:rows]), key
