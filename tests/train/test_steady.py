"""A long run compiles nothing after its first steps and holds no more memory.

The runs are those of `benchmarks/steady.py`, on the CPU: every architecture through
`Trainer`, with evaluation, checkpoints and changes of capacity in between. Tracing and
guards are torch.compile's own; only its kernels are left out ("aot_eager").
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.thorough


SCRIPT = Path(__file__).resolve().parents[2] / "benchmarks" / "steady.py"


def load() -> Any:
    """The benchmark as a module."""
    spec = importlib.util.spec_from_file_location("steady", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["steady"] = module
    spec.loader.exec_module(module)
    return module


steady = load()
QUICK = {
    "MoE dropless": {"num_layers": 1},
    "MoD changing capacity": {"num_layers": 1, "mod_pattern": "all"},
    "HRM puzzles": {"h_layers": 1, "l_layers": 1},
}
"""Those whose shapes or code a step could change, each in its own way, with one block
of each kind: compiling takes the time. Blocks beside each other are the puzzles'."""


def measured(name: str, folder: Path, last: int) -> dict[str, Any]:
    found: dict[str, Any] = steady.measure(
        name, folder, "cpu", warm_up=25, last=last, width=32, backend="aot_eager"
    )
    return found


@pytest.mark.parametrize("name", QUICK)
def test_nothing_is_compiled_after_warm_up_and_nothing_is_kept(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = steady.ARCHITECTURES[name] | QUICK[name]
    monkeypatch.setitem(steady.ARCHITECTURES, name, options)
    found = measured(name, tmp_path, 55)
    assert found["compiles_in_warm_up"] > 0
    assert steady.unsteady(found) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", steady.ARCHITECTURES)
def test_five_hundred_steps_stay_steady(name: str, tmp_path: Path) -> None:
    assert steady.unsteady(measured(name, tmp_path, 500)) == ""


def test_what_grows_or_compiles_again_is_told() -> None:
    """The measure itself: it is not steady by default."""
    still = {"tensors": 100, "resident": 2**30}
    found = {
        "compiles_in_warm_up": 2,
        "compiles_after": 0,
        "compiled_in_steps": [1],
        "at_warm_up": still,
        "at_last": still,
    }
    assert steady.unsteady(found) == ""
    assert "nothing was compiled" in steady.unsteady(found | {"compiles_in_warm_up": 0})
    assert "steps [1]" in steady.unsteady(found | {"compiles_after": 1})
    for kind, more in (("tensors", 475), ("resident", 2**26), ("allocated", 512)):
        first = still | ({"allocated": 5} if kind == "allocated" else {})
        last = first | {kind: first[kind] + more}
        grown = found | {"at_warm_up": first, "at_last": last}
        assert kind in steady.unsteady(grown)
