"""Small models exported for transformers, and ways to damage their folders."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from lumina.errors import LuminaError
from lumina.model.build import build_network
from lumina.model.spec import ModelSpec, MoeSpec

DENSE = ModelSpec(
    vocab_size=90,
    padded_vocab_size=128,
    hidden_size=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=48,
    seq_length=64,
    init_std=0.2,
)
ROUTED = replace(DENSE, moe=MoeSpec(5, 2, 40, layers=(0, 1)))


def ids(rows=2, length=20):
    return torch.randint(
        0, 90, (rows, length), generator=torch.Generator().manual_seed(0)
    )


def load(spec, tensors):
    """A network with imported tensors."""
    from lumina.model.declared import fused_pieces

    network = build_network(spec, seed=None)
    pieces = fused_pieces(network.spec)
    with torch.no_grad():
        for name, target in network.state_dict().items():
            names = pieces[name].names if name in pieces else (name,)
            dim = pieces[name].dim if name in pieces else 0
            target.copy_(torch.cat([tensors.pop(one) for one in names], dim=dim))
    assert not tensors, f"left over: {list(tensors)}"
    return network.eval()


@contextmanager
def refused(code, *words):
    """A context that wants this code, and these words in the message."""
    with pytest.raises(LuminaError) as caught:
        yield
    assert caught.value.code == code, str(caught.value)
    for word in words:
        assert word in str(caught.value)


def edit(folder, name="config.json", **changes):
    path = folder / name
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in values.items() if v is not ...}))


def edit_weights(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})
