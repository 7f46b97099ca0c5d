"""Feed-forwards and experts in tiles: the same gradients, in less memory."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lumina.assemble.features import build_features
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.measure.live_bytes import LiveBytes
from lumina.model.build import build_network
from lumina.ops.attention.dispatch import Pattern, attend
from lumina.ops.attention.in_groups import in_groups
from lumina.ops.tiled import tiled
from lumina.plan.figures import layout_of
from lumina.plan.memory import estimate
from lumina.plan.plan import Plan
from machines import gpu, plan_for
from networks import packed_batch
from tiny_runs import Runs

SHAPE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "num_layers": 2,
    "num_heads": 4,
    "seq_length": 64,
    "intermediate_size": 512,
    "global_batch_size": 4,
    "batch_size": 4,
    "loss_chunk_bytes": 2**19,
    "steps": 1,
    "device": "cpu",
}
MORE = pytest.mark.thorough
MOE = {"use_moe": True, "num_experts": 4, "moe_intermediate_size": 256}


def planned(**options: Any) -> Plan:
    return plan_for(Config(**(SHAPE | options)))


def gradients(plan: Plan) -> tuple[list[Tensor], int, int]:
    """(the loss and every gradient, bytes kept for backward, most bytes alive)."""
    network = build_network(plan.spec, loss_chunk_bytes=plan.loss_chunk_bytes, seed=0)
    build_features(network, plan)
    meter = LiveBytes()
    for parameter in network.parameters():
        meter.add(parameter)
    torch.manual_seed(1)
    meter.now = meter.peak = 0
    with meter:
        sums, aux = network(packed_batch([[40, 24]] * plan.micro_batch_size, 64))
        kept = meter.now
        total = sums.loss_sum + sum(aux[k] for k in aux if k.endswith("loss"))
        total.backward()
    found = [sums.loss_sum, *(p.grad for p in network.parameters())]
    return [one.detach().clone() for one in found if one is not None], kept, meter.peak


@pytest.mark.parametrize(
    ("options", "tile"),
    [
        ({}, 100),
        (MOE | {"moe_shared_experts": 1}, 64),
        pytest.param(
            {"gradient_checkpointing": "full"}, 64, marks=pytest.mark.thorough
        ),
        pytest.param({"use_mod": True}, 33, marks=pytest.mark.thorough),
    ],
    ids=["dense", "experts", "recomputed", "depths"],
)
def test_tiles_give_the_gradients_of_the_whole(
    options: dict[str, Any], tile: int
) -> None:
    """The last tile may be shorter."""
    options = {"gradient_checkpointing": "none"} | options
    plain, kept, peak = gradients(planned(**options))
    plan = planned(**options, feedforward_tile=tile)
    found, less, lower = gradients(plan)
    assert len(found) == len(plain)
    for one, other in zip(plain, found, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5)
    assert lower < peak
    if options["gradient_checkpointing"] == "none" and "use_mod" not in options:
        assert less < 0.7 * kept
        parts = estimate(plan.spec, layout_of(plan))
        tokens = 4 * 64 + plan.spec.padded_vocab_size
        stays = parts["activations"] + parts["routed"]
        assert less - 4 * 64 * tokens == pytest.approx(stays, rel=0.06)
        names = ("activations", "routed", "logits", "working", "gradients")
        assert lower <= sum(parts[name] for name in names)


@pytest.mark.parametrize(
    "mode",
    ["full", *(pytest.param(m, marks=MORE) for m in ("none", "except_attention"))],
)
def test_groups_of_heads_give_the_gradients_of_all(mode: str) -> None:
    """And what a step holds at most is less, in an attention that is most of it."""
    shape = {"num_heads": 8, "num_kv_heads": 4, "head_dim": 64, "hidden_size": 128}
    shape |= {"gradient_checkpointing": mode, "loss_chunk_bytes": 2**16}
    shape |= {"intermediate_size": 64, "batch_size": 32, "global_batch_size": 32}
    shape |= {"num_layers": 1, "feedforward_tile": 256}
    plain, _, peak = gradients(planned(**shape))
    found, _, lower = gradients(planned(**shape, attention_head_groups=4))
    assert len(found) == len(plain)
    for one, other in zip(plain, found, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-5, atol=2e-5)
    assert lower < 0.9 * peak


def test_heads_in_groups_go_back_once_and_are_all_in_a_group() -> None:
    x = torch.randn(2, 16, 12, 8, dtype=torch.float64, requires_grad=True)
    sees = partial(attend, pattern=Pattern("sdpa"))
    y = in_groups(x * 1, (8, 2, 2), 2, sees)
    y.square().sum().backward(retain_graph=True)
    grouped, x.grad = x.grad, None
    whole = sees(*x.split((8, 2, 2), dim=2))
    whole.square().sum().backward()
    torch.testing.assert_close(grouped, x.grad)
    with pytest.raises(RuntimeError, match="goes back once"):
        y.sum().backward()
    with pytest.raises(ValueError, match="do not divide 2 heads"):
        in_groups(x, (8, 2, 2), 3, sees)


@pytest.mark.parametrize("tiles", [1, 7, 64])
def test_gradients_of_weights_do_not_depend_on_the_number_of_tiles(tiles: int) -> None:
    """Summed in float32, although the weights are in 16 bits."""
    torch.manual_seed(0)
    tokens, width, rank = 448, 64, 8
    x = torch.randn(tokens, width)
    a, b = torch.randn(rank, width) / 8, torch.randn(width, rank) / 8

    def pair(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
        return torch.tanh(x @ a.t()) @ b.t()

    def learned(dtype: torch.dtype, size: int) -> list[Tensor]:
        leaves = [one.to(dtype).requires_grad_() for one in (x, a, b)]
        # The copies of adapters that a program casts are not leaves.
        y = tiled(pair, leaves[:1], [one * 1 for one in leaves[1:]], size)
        y.square().sum().backward()
        return [one.grad.double() for one in leaves if one.grad is not None]

    def errors(dtype: torch.dtype, size: int) -> list[float]:
        exact, found = learned(torch.float64, tokens), learned(dtype, size)
        pairs = zip(found, exact, strict=True)
        return [float((one - other).norm() / other.norm()) for one, other in pairs]

    narrow, once = errors(torch.bfloat16, tokens // tiles), errors(torch.bfloat16, 448)
    assert all(n < 1.15 * o < 0.01 for n, o in zip(narrow[1:], once[1:], strict=True))
    assert max(errors(torch.float32, tokens // tiles)) < 1e-6


def test_dropout_inside_a_tile_is_drawn_once() -> None:
    """Backwards the numbers of the forward pass, and then those that follow it."""
    torch.manual_seed(0)
    drop, x = nn.Dropout(0.5), torch.randn(64, 8, requires_grad=True)
    y = tiled(lambda x: drop(x), [x], [], 20)
    after = torch.rand(1)
    y.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad != 0, y != 0) and 100 < (y != 0).sum() < 400
    torch.manual_seed(0)
    torch.randn(64, 8)
    with torch.no_grad():
        tiled(lambda x: drop(x), [x], [], 20)
    assert torch.equal(torch.rand(1), after)


def test_tiles_only_where_a_forward_is_longer() -> None:
    for tile, on in ((0, False), (256, False), (255, True)):
        plan = planned(feedforward_tile=tile)
        network = build_network(plan.spec, loss_chunk_bytes=2**19, seed=0)
        build_features(network, plan)
        forward = network.backbone.blocks[0].feedforward.forward
        assert ("partial" in type(forward).__name__) == on


def test_what_tiles_do_not_go_with_is_refused_by_name() -> None:
    for words, options in (
        ("compile", {"compile": True, "device": "auto"}),
        ("moe_dispatch", MOE | {"moe_dispatch": "capacity"}),
        ("gradient_checkpointing selective", {"gradient_checkpointing": "selective"}),
    ):
        with pytest.raises(LuminaError, match=words) as caught:
            Config(**(SHAPE | options), feedforward_tile=64)
        assert caught.value.code == "E002"
    for words, options in (
        ("3 groups do not divide the 4 heads", {"attention_head_groups": 3}),
        ("latent", {"attention_head_groups": 2, "mla_kv_rank": 16, "head_dim": 16}),
    ):
        with pytest.raises(LuminaError, match=words) as caught:
            planned(**options, feedforward_tile=64)
        assert caught.value.code == "E002"
    # Compiling that was not named gives way.
    config = Config(**(SHAPE | {"device": "auto"}), feedforward_tile=64)
    assert not plan_for(config, gpu()).compile


@pytest.mark.thorough
def test_adapters_on_a_base_in_few_bits_train_in_tiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with their inputs in files: the losses of the whole."""
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    runs = Runs(tmp_path, monkeypatch)
    base = runs.train(steps=1, num_layers=2)
    shape = {
        "steps": 3,
        "num_layers": 2,
        "batch_size": 4,
        "init_from": str(base.folder),
    }
    shape |= {"use_peft": True, "lora_target_modules": ("full",), "load_in_4bit": True}
    shape |= {"lora_dropout": 0.0}
    whole = runs.train(**shape)
    found = runs.train(**shape, feedforward_tile=40)
    assert found.column("loss") == pytest.approx(whole.column("loss"), rel=1e-5)
    kept = {"gradient_checkpointing": "full", "activations_in": "disk"}
    found = runs.train(**shape, feedforward_tile=40, **kept)
    assert found.column("loss") == pytest.approx(whole.column("loss"), rel=1e-5)
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(found.tensors[name], tensor, rtol=1e-3, atol=1e-4)
