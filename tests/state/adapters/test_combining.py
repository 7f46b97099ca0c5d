"""Several adapters as one folder: the same change, or the nearest of a lower rank."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from infer.networks import tiny
from lumina.errors import LuminaError
from lumina.model.spec import MoeSpec
from lumina.state.adapters.adapter import Adapter, Piece
from lumina.state.adapters.combining import combined
from lumina.state.adapters.deltas import delta
from lumina.state.adapters.reading import read_adapter
from lumina.state.adapters.writing import write_adapter
from state.adapters.test_adapter_folders import (  # noqa: F401 (fixtures)
    adapter_for,
    base,
    by_hand,
    folders,
    logits,
    tokenizer,
    told,
)


def change(adapter, name):
    piece = adapter.pieces[name]
    return delta(adapter, piece, torch.zeros(()))


@pytest.mark.parametrize("routed", [False, True], ids=["dense", "experts"])
def test_adapters_side_by_side_change_what_they_change_together(routed):
    moe = MoeSpec(4, 2, 40, layers=(0,)) if routed else None
    spec = replace(tiny().spec, moe=moe)
    one, two = adapter_for(spec, 0), adapter_for(spec, 1, rank=5, method="rslora")
    two = replace(two, pieces=dict(list(two.pieces.items())[1:]))
    both, lost = combined([(one, 0.5), (two, -2.0)], "both")
    assert lost == 0.0 and both.pieces.keys() == one.pieces.keys()
    wanted = {}
    for name in one.pieces:
        wanted[name] = 0.5 * change(one, name)
        if name in two.pieces:
            wanted[name] = wanted[name] - 2.0 * change(two, name)
        torch.testing.assert_close(change(both, name), wanted[name])

    fewer, lost = combined([(one, 0.5), (two, -2.0)], "fewer", rank=4)
    errors, sizes = 0.0, 0.0
    for name, full in wanted.items():
        left, values, right = torch.linalg.svd(full.double(), full_matrices=False)
        nearest = left[..., :4] * values[..., None, :4] @ right[..., :4, :]
        got = change(fewer, name).double()
        torch.testing.assert_close(got, nearest, rtol=1e-3, atol=1e-4)
        errors += float((got - full).square().sum())
        sizes += float(full.square().sum())
    assert lost == pytest.approx((errors / sizes) ** 0.5, rel=1e-3) and lost > 0.01


def test_what_is_no_product_of_two_matrices_is_refused():
    vector = {"x": Piece({"factors": torch.ones(3)}, 1, 1.0)}
    with pytest.raises(LuminaError, match="ia3"):
        combined([(Adapter("x", "ia3", vector), 1.0)], "both")
    with pytest.raises(LuminaError, match="rank is 0"):
        combined([(Adapter("x", "lora", {}), 1.0)], "both", rank=0)


def test_the_command_writes_one_folder(base, folders, tmp_path, capsys):  # noqa: F811
    one, two = folders
    both = tmp_path / "both"
    command = ("adapters", "combine", base[0], both, "--adapter", one, "--adapter")
    assert "nothing is lost" in told(capsys, *command, f"{two}=0.5").out
    spec = base[1].spec
    got, first, second = (read_adapter(one, spec) for one in (both, one, two))
    for name in got.pieces:
        wanted = change(first, name) + 0.5 * change(second, name)
        torch.testing.assert_close(change(got, name), wanted)
    printed = told(capsys, *command[:3], tmp_path / "less", *command[4:], two, "--rank",
                   "2").out  # fmt: skip
    assert "the lower rank loses" in printed


@pytest.mark.parametrize("method", ["lora_plus", "loftq"])
def test_methods_that_only_train_otherwise_are_written_as_lora(method, tmp_path):
    spec = tiny().spec
    adapter = adapter_for(spec, method=method)
    back = read_adapter(write_adapter(adapter, spec, tmp_path / "made"), spec)
    assert back.method == "lora"
    for name in adapter.pieces:
        assert torch.equal(change(back, name), change(adapter, name))
