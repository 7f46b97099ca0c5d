"""What a device does before the first step, and that nothing remembers it."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from lumina.assemble.assemble import assemble
from lumina.assemble.ranks import Ranks
from lumina.config import Config
from lumina.train import warm_up
from lumina.train.torch_settings import configure_torch
from machines import gpu, plan_for
from programs import tiny_plan


class Products(TorchDispatchMode):
    """Counts matrix products by their type."""

    def __init__(self):
        super().__init__()
        self.types = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if "mm" in str(function):
            self.types.append(args[0].dtype)
        return function(*args, **(kwargs or {}))


@pytest.mark.covers("TRN-29")
def test_products_of_both_passes_are_done_in_what_the_run_computes_in(monkeypatch):
    monkeypatch.setattr(warm_up, "LAZY", ("cpu",))
    program = assemble(tiny_plan(compute_dtype="bfloat16"))
    before = [p.detach().clone() for p in program.network.parameters()]
    state = torch.get_rng_state()
    with Products() as products:
        assert warm_up.warm_device(program)
    # One product forward, two backward.
    assert products.types.count(torch.bfloat16) == 3
    assert products.types.count(torch.float32) == 3
    assert torch.equal(torch.get_rng_state(), state)
    after = list(program.network.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(p.grad is None for p in after)


@pytest.mark.covers("TRN-30", "KRN-22: cuDNN benchmark mode")
def test_cudnn_tries_its_algorithms_while_a_run_lasts(monkeypatch):
    """On a described GPU, where it is asked for."""
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    for asked in (True, False, None):
        config = Config(vocab_size=64, steps=1, cudnn_benchmark=asked)
        plan = plan_for(config, gpu())
        restore = configure_torch(plan, Ranks(), gpu())
        assert torch.backends.cudnn.benchmark is bool(asked)
        restore()
        assert torch.backends.cudnn.benchmark is False


def test_a_processor_has_nothing_to_load():
    program = assemble(tiny_plan())
    with Products() as products:
        assert not warm_up.warm_device(program)
    assert not products.types


def test_a_device_is_loaded_once_on_a_thread_and_waited_for(monkeypatch):
    monkeypatch.setattr(warm_up, "LAZY", ("cpu",))
    monkeypatch.setattr(warm_up, "_begun", {})
    used, waited_for = [], threading.Event()
    part = warm_up.start_clock.part

    def told(name):
        waited_for.set()
        return part(name)

    def use(device, dtype):
        waited_for.wait(60)
        time.sleep(0.05)  # where it is not waited for, what follows comes first
        used.append((threading.current_thread().name, device.type, dtype))
        raise RuntimeError("no such kernel")  # the first step would meet it

    monkeypatch.setattr(warm_up.start_clock, "part", told)
    monkeypatch.setattr(warm_up, "_use", use)
    program = assemble(tiny_plan(compute_dtype="bfloat16"))
    waited_for.clear()
    for _ in range(2):
        warm_up.warm_device_beside(program.device, program.compute_dtype)
    assert not used and warm_up.warm_device(program)
    assert used == [("lumina-warm-up", "cpu", torch.bfloat16)]
    # Another Program, after a reassembly, is readied by itself.
    with pytest.raises(RuntimeError, match="no such kernel"):
        warm_up.warm_device(program)


def test_a_processor_has_no_thread_to_wait_for(monkeypatch):
    monkeypatch.setattr(warm_up, "_begun", {})
    warm_up.warm_device_beside(torch.device("cpu"), torch.float32)
    assert not warm_up._begun
