"""Which optimizer trains adapters, and what it keeps for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lumina.assemble.program import Program
from lumina.optim.declared import (
    DENSE_ROLES,
    OPTIMIZERS,
    StateTensor,
    known_optimizers,
    register_optimizer,
)
from lumina.optim.groups import optimizer_of
from lumina.optim.methods.adamw import AdamW
from tiny_runs import Runs, seen

DORA = {"use_peft": True, "lora_r": 4, "peft_method": "dora", "hidden_size": 64}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    return Runs(tmp_path, monkeypatch)


def kept(program: Program, _: Any) -> dict[str, Any]:
    """Bytes of states by dimensions of the tensor, and what the plan says of them."""
    found: dict[str, Any] = {"planned": program.plan.memory["optimizer"]}
    for slot in program.optimizer.slots:
        assert slot.name.rpartition(".adapters.")[1], slot.name
        own = sum(one.nbytes for one in slot.state.values())
        size = found.setdefault(slot.parameter.ndim, [0, 0])
        size[0] += own
        size[1] += slot.parameter.numel()
        found.setdefault("names", set()).update(slot.state)
    return found


@pytest.mark.covers("MEM-10: 8-bit optimizer state")
@pytest.mark.parametrize(("name", "most"), [("adamw_8bit", 4.1), ("adamw_4bit", 3.1)])
def test_matrices_of_adapters_are_kept_in_codes(
    name: str, most: float, runs: Runs
) -> None:
    """Rows of 4 have a scale each; DoRA's magnitudes are vectors, and AdamW's."""
    base = runs.train(hidden_size=64, steps=1)
    found: list[dict[str, Any]] = []
    started = DORA | {"init_from": str(base.folder), "steps": 3}
    few = runs.train(seen(kept, found), optimizer=name, **started)
    states = found[0]
    matrices, vectors = (own / size for own, size in (states[2], states[1]))
    assert matrices < most and vectors == 8
    assert "exp_avg_codes" in states["names"]
    counted = states[1][0] + states[2][0]
    assert abs(states["planned"] - counted) <= 0.01 * counted
    assert (
        "adamw_8bit" in few.printed or "4-bit" in few.printed or "8-bit" in few.printed
    )

    wide = runs.train(optimizer="adamw", **started)
    pairs = list(zip(few.column("loss"), wide.column("loss"), strict=True))
    assert pairs[0][0] == pairs[0][1] and pairs[-1][0] != pairs[-1][1]
    assert all(abs(one - other) < 0.01 for one, other in pairs)


def test_an_optimizer_that_does_not_know_adapters_refuses_them(runs: Runs) -> None:
    """Without a word, AdamW would have trained all of them in its place."""
    base = runs.train(hidden_size=64, steps=1)
    started = DORA | {"init_from": str(base.folder), "optimizer": "muon"}
    said = runs.refused("E002", **started)
    assert "muon" in said and "whose role is adapter" in said
    groups = ["role:adapter=adamw_8bit"]
    said = runs.refused("E002", **started, optimizer_groups=groups)
    assert "1 dimensions" in said  # the magnitudes
    run = runs.train(**started, optimizer_groups=["role:adapter=adamw"], steps=1)
    assert run.rows[-1]["step"] == 1


def test_every_role_is_trained_left_or_refused() -> None:
    for name in known_optimizers():
        declared = OPTIMIZERS.found(name)
        assert declared is not None
        for role in DENSE_ROLES if declared.rest else ():
            chosen = optimizer_of("x", role, name, (), 2)
            if role in declared.roles:
                assert chosen == name
            elif role in declared.leaves:
                assert chosen == declared.rest
            else:
                assert chosen == name and not declared.trains(role, 2)


def test_a_rest_of_a_plugin_takes_adapters_only_where_it_says_so() -> None:
    states = {"first": StateTensor(), "second": StateTensor()}

    def registered(name: str, **more: Any) -> str:
        made = type("Made", (AdamW,), {"__module__": __name__})
        register_optimizer(
            name, words="x", states=states, roles=("matrix",), rest="adamw", **more
        )(made)
        return optimizer_of("x", "adapter", name, (), 2)

    try:
        assert registered("silent") == "silent"  # and the plan refuses that
        assert registered("spoken", leaves=("adapter",)) == "adamw"
    finally:
        OPTIMIZERS.pop("silent", None)
        OPTIMIZERS.pop("spoken", None)
