"""Experts in folders of their own, and the registry that names them."""

from __future__ import annotations

import pytest
import torch

from lumina.errors import LuminaError
from lumina.state import experts
from lumina.state.expert_registry import Registry
from lumina.state.experts import read_expert, write_expert


def test_a_registry_makes_the_folder_it_is_named(tmp_path):
    folder = tmp_path / "not" / "there"
    registry = Registry(folder)
    with registry.changing():
        registry.create("chemistry", description="of bonds")
    assert Registry(folder).find("chemistry").description == "of bonds"


def test_an_experts_weights_come_back_from_a_folder_made_for_them(tmp_path):
    path = tmp_path / "not" / "there" / "expert.safetensors"
    expert = {"backbone.blocks.0.feedforward.gate": torch.arange(6.0).view(2, 3)}
    write_expert(path, expert)
    assert [one.name for one in path.parent.iterdir()] == [path.name]
    read = read_expert(path)
    assert read.keys() == expert.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in expert.items())


def test_an_expert_that_finds_no_room_leaves_no_file(tmp_path, monkeypatch):
    def full(partial, _):
        partial.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(experts, "write_tensors", full)
    with pytest.raises(LuminaError) as caught:
        write_expert(tmp_path / "expert.safetensors", {})
    assert caught.value.code == "E204" and not list(tmp_path.iterdir())
