"""FlashAttention-3: found, put in place and taken out again."""

from __future__ import annotations

import importlib.machinery
import sys
import types

import pytest
import torch
from torch.nn import attention

from lumina.errors import LuminaError
from lumina.ops.attention import flash3


@pytest.fixture
def package(monkeypatch):
    """A package of that name, whose kernels nobody calls."""
    module = types.ModuleType(flash3.PACKAGE)
    module.__spec__ = importlib.machinery.ModuleSpec(flash3.PACKAGE, None)
    monkeypatch.setitem(sys.modules, flash3.PACKAGE, module)
    kernels = types.SimpleNamespace(fwd=lambda *a: None, bwd=lambda *a: None)
    monkeypatch.setattr(torch.ops, "flash_attn_3", kernels, raising=False)
    yield module
    flash3.use(False)


def test_a_package_that_is_there_is_put_in_place_and_back(package):
    assert flash3.found() == (True, flash3.PACKAGE)
    assert attention.current_flash_attention_impl() is None
    flash3.use(True)
    flash3.use(True)
    assert attention.current_flash_attention_impl() == "FA3"
    flash3.use(False)
    flash3.use(False)
    assert attention.current_flash_attention_impl() is None


def test_what_is_missing_is_said(monkeypatch, package):
    def broken(name):
        raise OSError("undefined symbol: _ZN3c10")

    with monkeypatch.context() as patch:
        patch.setattr(flash3.importlib, "import_module", broken)
        there, why = flash3.found()
        assert not there and "does not load: OSError: undefined symbol" in why
    with monkeypatch.context() as patch:
        patch.setattr(attention, "list_flash_attention_impls", lambda: ["FA4"])
        assert flash3.found() == (False, "this torch has no place for it")
    monkeypatch.delitem(sys.modules, flash3.PACKAGE)
    if importlib.util.find_spec(flash3.PACKAGE) is None:
        there, why = flash3.found()
        assert not there and "not installed" in why


def test_a_package_without_kernels_is_refused_with_a_way_out(monkeypatch, package):
    monkeypatch.setattr(torch.ops, "flash_attn_3", types.SimpleNamespace())
    with pytest.raises(LuminaError, match=r"E003.*flash3") as caught:
        flash3.use(True)
    assert "--attention flash2" in caught.value.hint
    assert attention.current_flash_attention_impl() is None
