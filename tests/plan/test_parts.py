"""What registered parts cost, by the plan and in truth."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import lumina
from lumina.batch import Batch
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.model.build import build_network
from lumina.model.registry import load_plugins
from lumina.model.spec import ModelSpec
from lumina.plan.costs.layout import Layout
from lumina.plan.count import count_parameters, count_trainable
from lumina.plan.flops import flops_per_token
from lumina.plan.memory import estimate
from lumina.plan.parts import kept_by_part
from lumina.plan.shape import resolve_spec

OWN = str(Path(__file__).parents[1] / "own_parts.py")
LINEAR = str(Path(__file__).parents[2] / "examples" / "gated_linear_attention.py")
load_plugins([OWN, LINEAR])
MODELS = {
    "attention": {"attention_type": ("gated_linear", "standard")},
    "feedforward": {"feedforward_type": ("relu_squared",)},
    "block": {"block_type": ("parallel", "standard")},
    "backbone": {"backbone": "running_mean"},
    "objective": {"objective": "z_loss"},
    "experts": {
        "attention_type": ("gated_linear",), "use_moe": True, "num_experts": 4,
        "moe_intermediate_size": 32,
    },
}  # fmt: skip


def spec_of(model: str) -> ModelSpec:
    return resolve_spec(
        Config(vocab_size=320, hidden_size=64, num_heads=4, num_layers=4,
               intermediate_size=160, seq_length=64, **MODELS[model])
    )  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_those_of_the_network(model: str) -> None:
    spec = spec_of(model)
    built = sum(p.numel() for p in build_network(spec, device="meta").parameters())
    assert count_parameters(spec).total == built
    assert count_trainable(spec, ()) == built
    kept = count_trainable(spec, ["blocks.0.*"])
    first = build_network(spec, device="meta").backbone.blocks[0]
    assert built - kept == sum(p.numel() for p in first.parameters())


@pytest.mark.parametrize("model", ["attention", "feedforward", "block"])
def test_operations_are_those_executed(model: str) -> None:
    spec = spec_of(model)
    network = build_network(spec, attention="reference")
    batch = Batch.from_rows(*torch.randint(0, 300, (2, 2, 64)))
    with FlopCounterMode(display=False) as counter:
        losses, _ = network(batch)
        losses.loss_sum.backward()
    executed = counter.get_total_flops() / 128
    # The reference takes scores of the future too, and masks them.
    standard = {"attention": 2, "feedforward": 4, "block": 4}[model]
    executed -= standard * 6 * spec.num_heads * spec.head_dim * 64
    assert flops_per_token(spec) == pytest.approx(executed, rel=0.04)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("mode", ["none", "selective", "full"])
def test_kept_bytes_are_no_fewer_than_kept_in_truth(model: str, mode: str) -> None:
    """What autograd holds after a forward pass, but for the parameters."""
    from lumina.assemble.checkpointing import checkpoint_blocks

    spec = spec_of(model)
    network = build_network(spec).train()
    checkpoint_blocks(network.backbone.blocks, mode)
    batch = Batch.from_rows(*torch.randint(0, 300, (2, 3, 64)))
    known = {p.untyped_storage().data_ptr() for p in network.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = network.backbone(batch)
    held = sum(
        tensor.untyped_storage().nbytes()
        for key, tensor in saved.items()
        if key not in known
    )
    del output
    parts = estimate(
        spec,
        Layout(micro_batch_size=3, gradient_checkpointing=mode, attention="sdpa",
               device="cpu"),
    )  # fmt: skip
    planned = parts["activations"] + parts["routed"]
    assert planned >= held
    if mode == "none" and model != "experts":
        assert planned <= 1.5 * held


def test_a_part_that_needs_values_says_what_it_keeps() -> None:
    name = f"part_{uuid.uuid4().hex}"

    @lumina.register_feedforward(name)
    class Reads(nn.Module):
        def __init__(self, spec: ModelSpec, layer_index: int) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor, context: object) -> torch.Tensor:
            return x * 2 if x.sum().item() > 0 else x

    spec = resolve_spec(
        Config(vocab_size=320, hidden_size=64, num_heads=4, feedforward_type=(name,))
    )
    with pytest.raises(LuminaError, match="does not run without values") as caught:
        kept_by_part(spec, "feedforward", 0, 256, 4)
    assert "kept_bytes(spec, tokens, element)" in caught.value.hint
    Reads.kept_bytes = staticmethod(lambda spec, tokens, element: tokens * element)
    assert kept_by_part(spec, "feedforward", 0, 256, 4) == 1024


@pytest.mark.thorough
def test_blocks_with_parts_compile_without_a_break() -> None:
    spec = resolve_spec(
        Config(vocab_size=320, hidden_size=32, num_heads=2, num_layers=2, seq_length=32,
               attention_type=("gated_linear",), feedforward_type=("relu_squared",))
    )  # fmt: skip
    plain, compiled = (build_network(spec, seed=1) for _ in range(2))
    torch.compiler.reset()
    for block in compiled.backbone.blocks:
        block.compile(fullgraph=True, backend="aot_eager")
    batch = Batch.from_rows(*torch.randint(0, 300, (2, 2, 32)))
    for network in (plain, compiled):
        losses, _ = network(batch)
        losses.loss_sum.backward()
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)
    torch.compiler.reset()
