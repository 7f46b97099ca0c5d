"""Where tensors go that a row leaves no room for on the device."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lumina.cli.main import main
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.plan.context_tiers import tier_memories, with_tier
from lumina.plan.environment import Environment
from lumina.plan.layout_choice import MEMORY_SHARE
from lumina.plan.placing import placed, ways_to_place
from machines import cpu, gpu, plan_for

GIB = 2**30
ADAPTERS = {"use_peft": True, "init_from": "base", "tie_embeddings": False}
ONE = {"precision": "bf16", "batch_size": 1, "global_batch_size": 1, "num_layers": 4}


def config(**changes: Any) -> Config:
    return Config.resolve(preset="dense_3b", flags=ONE | changes)


def card(gib: float, host: float = 64) -> Environment:
    name = "NVIDIA GeForce RTX 4090"
    return gpu(name, gib, (8, 9), host_memory_bytes=int(host * GIB))


def auto(machine: Environment, **changes: Any) -> Config:
    asked = config(tier="auto", **changes)
    return with_tier(asked, machine, model=None, vocab_size=None, world_size=1)


@pytest.mark.parametrize(("host", "place"), [(64, "host"), (0.5, "disk")])
def test_a_base_without_room_is_streamed_from_the_nearer_place(
    host: float, place: str
) -> None:
    found = auto(card(2.6, host), **ADAPTERS)
    assert found.offload.weights_in == place
    assert found.offload.optimizer_states_in == "device"
    plan = plan_for(found.replace(steps=1), card(2.6, host))
    assert plan.memory["bound"] <= MEMORY_SHARE * card(2.6).memory_bytes
    why = found.provenance["weights_in"].detail
    assert "no room without" in why and f"--weights-in {place}" in why
    assert "a step about" in why and "on the link" in why
    assert "MiB in" in why and found.provenance["seq_length"].detail.startswith("tier")


def test_nothing_moves_where_all_fits_and_weights_move_last() -> None:
    """States alone where that is enough; inputs of blocks where the rest is not."""
    roomy = next(tier_memories(config(), card(30), vocab_size=None))
    assert roomy.fits and not roomy.settings and "--" not in roomy.in_words()
    found = placed(config(seq_length=4096), card(10), None, 1)
    assert found is not None and found[0] == {"optimizer_states_in": "host"}
    found = placed(config(seq_length=4096), card(8), None, 1)
    assert found is not None and found[0]["weights_in"] == "host"
    assert "activations_in" not in found[0]
    long = config(seq_length=18432, **ADAPTERS | {"num_layers": 12})
    found = placed(long, card(5.8), None, 1)
    assert found is not None
    assert found[0] == {"weights_in": "host", "activations_in": "host"}


def test_what_is_named_stays_where_it_is() -> None:
    with pytest.raises(LuminaError, match="E201"):
        auto(card(2.6), weights_in="device", activations_in="device", **ADAPTERS)
    assert list(ways_to_place(config(optimizer_states_in="device"))) == []
    asked = config(seq_length=4096, **ADAPTERS)
    assert placed(asked, card(2.6), None, 1) is not None
    assert placed(asked, card(2.6), None, 2) is None
    assert placed(asked, cpu(memory_bytes=5 * GIB), None, 1) is None


def test_the_command_says_what_makes_room(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--preset", "b1", "--vocab-size", "32000", "--tiers"]
    words += ["--hardware-profile", "rtx-4090", "--cap-memory", "14 GiB"]
    words += ["--batch-size", "1"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    first = found["tiers"][0]
    assert first["fits"] and first["settings"]["optimizer_states_in"] == "host"
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "tier 1 with --optimizer-states-in host" in text
