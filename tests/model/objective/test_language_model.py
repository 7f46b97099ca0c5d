"""The objective: sums that add up, whatever the chunks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lumina.batch import IGNORE
from lumina.model.build import build_network
from networks import packed_batch, tiny_spec


def run(network, batch):
    network.zero_grad()
    sums, _ = network(batch)
    sums.loss_sum.backward()
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return sums.loss_sum.detach(), sums.weight_sum, sums.terms, gradients


@pytest.mark.covers("MEM-18")
@pytest.mark.parametrize("tie_embeddings", [False, True])
@pytest.mark.parametrize("chunk_bytes", [1, 7 * 128 * 4, 2**16])
def test_chunk_size_changes_no_sum_and_no_gradient(chunk_bytes, tie_embeddings):
    spec = tiny_spec(tie_embeddings=tie_embeddings)
    batch = packed_batch([[8, 10, 6], [20]], 24)
    got = run(build_network(spec, loss_chunk_bytes=chunk_bytes), batch)
    expected = run(build_network(spec, loss_chunk_bytes=2**30), batch)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_micro_batches_add_up():
    network = build_network(tiny_spec())
    batch = packed_batch([[8, 10, 6], [20], [24]], 24)
    loss, weight, terms, gradients = run(network, batch)
    parts = []
    for rows in (slice(0, 1), slice(1, 3)):
        tensors = ("input_ids", "labels", "position_ids", "document_ids")
        parts.append(
            run(
                network, replace(batch, **{n: getattr(batch, n)[rows] for n in tensors})
            )
        )
    torch.testing.assert_close(parts[0][0] + parts[1][0], loss)
    assert parts[0][1] + parts[1][1] == weight
    assert parts[0][2]["correct"] + parts[1][2]["correct"] == terms["correct"]
    summed = {n: parts[0][3][n] + parts[1][3][n] for n in gradients}
    torch.testing.assert_close(summed, gradients, rtol=1e-5, atol=1e-5)


def test_the_loss_is_that_of_the_logits_it_returns():
    network = build_network(tiny_spec())
    batch = packed_batch([[24], [24]], 24)
    loss, weight, terms, _ = run(network, batch)
    logits = network.logits(batch.input_ids)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch.labels.flatten(), reduction="sum"
    )
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    counted = batch.labels != IGNORE
    assert weight == counted.sum()
    right = (logits.argmax(-1) == batch.labels)[counted].sum()
    assert terms["correct"] == right


def test_a_frozen_head_leaves_the_other_gradients_alone():
    spec, batch = tiny_spec(), packed_batch([[8, 10, 6], [20]], 24)
    *_, expected = run(build_network(spec), batch)
    network = build_network(spec)
    network.objective.head.weight.requires_grad_(False)
    *_, got = run(network, batch)
    assert got.pop("objective.head.weight") is None
    del expected["objective.head.weight"]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_frozen_body_still_trains_the_head():
    spec, batch = tiny_spec(), packed_batch([[8, 10, 6], [20]], 24)
    *_, expected = run(build_network(spec), batch)
    network = build_network(spec)
    network.backbone.requires_grad_(False)
    *_, got = run(network, batch)
    name = "objective.head.weight"
    torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-5)
    assert all(value is None for key, value in got.items() if key != name)
