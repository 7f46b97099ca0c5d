"""Small States, and processes that do what a rank or an unlucky run would."""

from __future__ import annotations

import contextlib
import os

import torch

from lumina.model.tensors import TensorInfo
from lumina.state.state import State


def make_state(step, rows=16, parts=("model", "optimizer")):
    """A State every value of which tells the step it is from."""
    value = float(step)
    tensors = {
        "backbone.blocks.0.attention.q.weight": torch.full((rows, 8), value),
        "backbone.norm.weight": torch.full((8,), value, dtype=torch.bfloat16),
        "backbone.blocks.0.feedforward.load": torch.full((0, 2), value),
        "scalar": torch.tensor(step),
    }
    floats = {n: t for n, t in tensors.items() if t.is_floating_point()}
    return State(
        tensors=tensors if "model" in parts else {},
        optimizer={
            "exp_avg": {n: -t.float() for n, t in floats.items()},
            "exp_avg_sq": {n: t.float() * 2 for n, t in floats.items()},
        }
        if "optimizer" in parts
        else {},
        info={
            "backbone.blocks.0.attention.q.weight": TensorInfo("matrix", ("out", "in")),
            "backbone.norm.weight": TensorInfo("norm", ("model",)),
        }
        if "model" in parts
        else {},
        counters={"step": step, "tokens": step * 1000, "loss": 0.1 + step},
        cursor={"epoch": 0, "row": step * 4},
        journal=[{"name": "learning_rate", "value": 0.3, "step": 1}],
        extra={"best_loss": None, "generator": b"\x00\xff"},
        spec={"hidden_size": 8},
        plan={"steps": 100},
        config={"seed": 42},
    )


def assert_state_is(found, wanted):
    """Bit for bit, and the order of names too."""
    assert found.json_parts() == wanted.json_parts()
    assert found.info == wanted.info
    pairs = [(found.tensors, wanted.tensors)]
    assert list(found.optimizer) == list(wanted.optimizer)
    pairs += [
        (found.optimizer[slot], wanted.optimizer[slot]) for slot in wanted.optimizer
    ]
    for got, expected in pairs:
        assert list(got) == list(expected)
        for name, tensor in expected.items():
            assert got[name].dtype == tensor.dtype, name
            assert torch.equal(got[name], tensor), name


class Events(list):
    """Collects what would go to events.jsonl."""

    def emit(self, kind, severity="info", code=None, message="", step=None, **data):
        self.append({"kind": kind, "severity": severity, "code": code, "data": data})

    def of(self, kind):
        return [event for event in self if event["kind"] == kind]


@contextlib.contextmanager
def unprivileged(folder):
    """A person who may look into `folder` but not write there, even under root."""
    mode = folder.stat().st_mode
    if os.geteuid() == 0:
        opened = [p for p in (folder, *folder.parents) if p.stat().st_uid == 0]
        modes = {path: path.stat().st_mode for path in opened}
        for path in opened:
            os.chmod(path, modes[path] | 0o055)
        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)
            for path, before in modes.items():
                os.chmod(path, before)
    else:
        os.chmod(folder, 0o500)
        try:
            yield
        finally:
            os.chmod(folder, mode)
