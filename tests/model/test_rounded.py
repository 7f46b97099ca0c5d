"""Weights that are rounded to few bits in each forward pass while they train."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from infer.networks import MOE, tiny
from lumina.batch import Batch
from lumina.measure.live_bytes import LiveBytes
from lumina.model.build import build_network
from lumina.model.network import Network
from lumina.model.rounded import round_weights, rounded_product
from lumina.model.stored import storable
from lumina.ops.low_bits.codec import found_codec

IDS = torch.randint(0, 61, (2, 24), generator=torch.Generator().manual_seed(5))


def loss(network: Network) -> torch.Tensor:
    losses, _ = network(Batch.from_rows(IDS[:, :-1], IDS[:, 1:]))
    return losses.loss_sum


@pytest.mark.covers(
    "PRC-14: training-aware (QAT)", "PRC-10: quantization_method quanto"
)
@pytest.mark.parametrize("codec", ["int8", "nf4"])
@pytest.mark.parametrize("changes", [{"num_kv_heads": 2}, {"moe": MOE}])
def test_the_loss_is_that_of_rounded_weights_and_its_gradient_theirs(
    changes: dict[str, Any], codec: str
) -> None:
    full = tiny(**changes)
    rounded = build_network(full.spec, seed=None)
    rounded.load_state_dict(full.state_dict())
    with torch.no_grad():
        for name in storable(full.spec, rounded):
            parameter = rounded.get_parameter(name)
            parameter.copy_(found_codec(codec).pack(parameter).unpacked())
    round_weights(full, SimpleNamespace(rounded_to=codec))
    found, expected = loss(full), loss(rounded)
    torch.testing.assert_close(found, expected)
    found.backward()
    expected.backward()
    for name, parameter in full.named_parameters():
        reference = rounded.get_parameter(name).grad
        assert parameter.grad is not None and reference is not None, name
        torch.testing.assert_close(parameter.grad, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.covers("PRC-14: dynamic")
def test_inputs_are_rounded_as_they_come_and_gradients_go_straight_through() -> None:
    """Written out row by row; each row has a step of its own, found as it comes."""
    torch.manual_seed(3)
    codec = found_codec("llm_int8")
    x, weight = torch.randn(2, 3, 32), torch.randn(5, 32)
    x[0, 1, 7] = 9.0  # an outlier, whose column is not rounded
    x[1] *= torch.tensor([[0.01], [1.0], [0.0]])
    rows = x.clone()
    for row in rows.view(-1, 32):
        calm = [abs(v) for c, v in enumerate(row.tolist()) if c != 7]
        step = max(calm) / 127 or 1.0
        row[:] = torch.tensor(
            [
                v if c == 7 else step * round(v / step)
                for c, v in enumerate(row.tolist())
            ]
        )
    nearest = codec.pack(weight).unpacked()
    x.requires_grad_(), weight.requires_grad_()
    y = rounded_product(x, weight, codec)
    torch.testing.assert_close(y, rows @ nearest.T)
    # What generation computes in this precision, by products of integers.
    served = codec.linear(x.detach(), codec.pack(weight))
    torch.testing.assert_close(y, served, rtol=1e-4, atol=1e-4)
    upstream = torch.randn(y.shape)
    found = torch.autograd.grad(y, (x, weight), upstream)
    torch.testing.assert_close(found[0], upstream @ nearest)
    torch.testing.assert_close(found[1], torch.einsum("bso,bsi->oi", upstream, rows))


def test_rounding_both_sides_keeps_no_more_than_no_rounding() -> None:
    network = tiny(num_layers=2)
    kept = []
    for codec in ("", "int8", "llm_int8"):
        if codec:
            round_weights(network, SimpleNamespace(rounded_to=codec))
        meter = LiveBytes()
        for parameter in network.parameters():
            meter.add(parameter)
        begin = meter.now
        with meter:
            total = loss(network)
            kept.append(meter.now - begin)
            del total
    assert kept[0] == kept[1] == kept[2] > 0


@pytest.mark.covers("PRC-14: training-aware (QAT)")
def test_training_that_rounds_ends_with_a_lower_loss_after_rounding() -> None:
    """The same steps with and without; then both are rounded to 4 bits for good."""
    losses = {}
    for trained_for in (False, True):
        network = tiny(num_layers=2)
        if trained_for:
            round_weights(network, SimpleNamespace(rounded_to="nf4"))
        optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.0)
        for _ in range(60):
            optimizer.zero_grad()
            loss(network).backward()
            optimizer.step()
        after = build_network(network.spec, seed=None)
        after.load_state_dict(network.state_dict())
        with torch.no_grad():
            for name in storable(network.spec, after):
                parameter = after.get_parameter(name)
                parameter.copy_(found_codec("nf4").pack(parameter).unpacked())
            losses[trained_for] = float(loss(after.eval()))
    assert losses[True] < 0.8 * losses[False], losses
