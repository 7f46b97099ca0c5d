"""A head for each task, against one that looks at every row by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from lumina.batch import IGNORE
from lumina.errors import LuminaError
from lumina.model.build import build_network
from lumina.model.kinds.tasks import STATISTICS as TASK_STATISTICS
from lumina.model.objective.multi_task import LOSSES, TOKENS
from lumina.model.spec import TaskSpec
from networks import packed_batch, random_ids, tiny_spec

NAMES = ("code", "prose", "talk")
SPEC = tiny_spec(tasks=TaskSpec(NAMES))
ROWS = [[8, 10, 6], [20], [24], [5, 5]]


def batch_of(task_rows, seed=0):
    return replace(packed_batch(ROWS, 24, seed), task_rows=task_rows)


def reference(network, batch):
    """The cross entropy of each task, row by row."""
    hidden = network.backbone(batch).hidden
    tasks = [t for t, count in enumerate(batch.task_rows) for _ in range(count)]
    losses = [torch.zeros(()) for _ in NAMES]
    for row, task in enumerate(tasks):
        weight = network.objective.heads[task].weight
        logits = (hidden[row] @ weight.T)[:, : network.spec.vocab_size]
        loss = F.cross_entropy(
            logits, batch.labels[row], ignore_index=IGNORE, reduction="sum"
        )
        losses[task] = losses[task] + loss
    return torch.stack(losses)


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return {
        n: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for n, p in network.named_parameters()
    }


@pytest.mark.parametrize("task_rows", [(1, 2, 1), (4, 0, 0), (0, 1, 3)])
@pytest.mark.parametrize("chunk_bytes", [7 * 128 * 4, 2**30])
def test_every_row_goes_to_the_head_of_its_task(task_rows, chunk_bytes):
    seed = int(torch.randint(0, 2**20, ()))
    network = build_network(SPEC, loss_chunk_bytes=chunk_bytes, seed=seed)
    batch = batch_of(task_rows, seed)
    weights = torch.rand(3)
    losses, aux = network(batch)
    found = gradients(network, (weights * losses.terms[LOSSES]).sum())
    # Every head has a gradient, also where it had no row: ranks must agree on them.
    assert all(head.weight.grad is not None for head in network.objective.heads)
    expected = reference(network, batch)
    wanted = gradients(network, (weights * expected).sum())
    torch.testing.assert_close(losses.terms[LOSSES], expected.detach())
    torch.testing.assert_close(losses.loss_sum, expected.sum().detach())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    counted = [(b != IGNORE).sum() for b in batch.labels.split(list(task_rows))]
    assert losses.terms[TOKENS].tolist() == [int(n) for n in counted]
    assert losses.weight_sum == sum(counted)
    assert aux[TASK_STATISTICS][:, 1].tolist() == losses.terms[TOKENS].tolist()
    assert not aux[TASK_STATISTICS].requires_grad


def test_equal_heads_are_one_head():
    network = build_network(SPEC)
    one = build_network(replace(SPEC, tasks=None))
    shared = {n: p for n, p in network.state_dict().items() if "heads" not in n}
    head = network.objective.heads[0].weight.detach()
    one.load_state_dict(shared | {"objective.head.weight": head})
    for other in network.objective.heads:
        other.weight.data.copy_(head)
    batch = batch_of((1, 1, 2))
    together, _ = network(batch)
    alone, _ = one(batch)
    torch.testing.assert_close(together.loss_sum, alone.loss_sum)
    found = gradients(network, together.loss_sum)
    wanted = gradients(one, alone.loss_sum)
    summed = sum(found.pop(f"objective.heads.{i}.weight") for i in range(3))
    torch.testing.assert_close(summed, wanted.pop("objective.head.weight"))
    torch.testing.assert_close(found, wanted)


def test_logits_are_those_of_the_task_that_is_named():
    network = build_network(SPEC)
    ids = random_ids(2, 12)
    by_name = {name: network.logits(ids, task_id=name) for name in NAMES}
    hidden = network.backbone(replace(batch_of((4, 0, 0)), **plain(ids))).hidden
    for number, name in enumerate(NAMES):
        head = network.objective.heads[number].weight
        torch.testing.assert_close(by_name[name], (hidden @ head.T)[..., :100])
        assert torch.equal(by_name[name], network.logits(ids, task_id=number))
    assert not torch.equal(by_name["code"], by_name["talk"])
    for wrong in (None, "verse", 3, -1):
        with pytest.raises(LuminaError, match="task") as caught:
            network.logits(ids, task_id=wrong)
        assert caught.value.code == "E005" and "code, prose, talk" in caught.value.hint
    with pytest.raises(LuminaError, match="one head"):
        build_network(tiny_spec()).logits(ids, task_id="code")


def plain(ids):
    """Fields of a batch whose rows are one document each."""
    rows, length = ids.shape
    return {
        "input_ids": ids,
        "position_ids": torch.arange(length).expand(rows, length),
        "document_ids": torch.zeros_like(ids),
        "cu_seqlens": torch.arange(0, (rows + 1) * length, length, dtype=torch.int32),
        "max_seqlen": length,
        "one_document_rows": True,
    }
