"""Copies that learn apart: each as if it were alone, and their mean is saved."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lumina.assemble.assemble import Progress, assemble, capture
from lumina.config import Config
from lumina.data.store import TokenStore
from lumina.errors import LuminaError
from lumina.parallel.sizes import Sizes
from lumina.parallel.table import chosen_way
from lumina.parallel.way import Conditions
from lumina.train.step import _of_copies, train_step
from programs import conversations, joined, stream_of, tiny_plan
from training import (
    DENSE,
    assert_same_run,
    checkpoints,
    column,
    in_processes,
    reached,
    rows,
    wait_until,
    words,
)

STEPS = 3
PLAN = {
    "micro_batch_size": 4,
    "grad_accum": 1,
    "max_grad_norm": 0.5,
    "ema_decay": 0.9,
}


def of_two(rank, place, folder, results):
    """In a process of two: what its copy is before and after all become one."""
    ranks = joined(rank, 2, place)
    plan = tiny_plan(world_size=2, parallel="independent", **PLAN)
    program = assemble(plan, ranks=ranks)
    rows_of, metrics = trained(program, folder, rank, divide=1)
    own = state_of(program)
    progress = Progress(step=STEPS)
    state = capture(program, progress, everything=True)
    merged = dict(state.tensors) | {
        f"{kind}/{name}": tensor
        for kind, held in state.optimizer.items()
        for name, tensor in held.items()
    }
    after = state_of(program)
    ranks.barrier()
    parts = [
        {name: tensor.tolist() for name, tensor in part.items()}
        for part in (own, after, merged)
    ]
    results.put((rank, (rows_of, metrics, *parts)))
    ranks.disconnect()


def trained(program, folder, rank, divide):
    """Steps with the rows of a rank of two; which these are, and the metrics."""
    stream = stream_of(TokenStore.open(folder))
    cursor, seen, metrics = dict(stream.start), [], []
    for step in range(STEPS):
        batches = stream.step(cursor, rank=rank, data_ranks=2, micro_batch_size=4)
        seen += [b.input_ids.tolist() for b in batches.micro_batches]
        cursor = batches.cursor
        # Alone, it would not know of the labels of the other one.
        batches = replace(batches, loss_tokens=batches.loss_tokens / divide)
        metrics.append(train_step(program, batches, step)[:3].tolist())
    return seen, metrics


def state_of(program):
    """Weights, moments and averages, by name."""
    found = {}
    for slot in program.optimizer.slots:
        found[slot.name] = slot.master.clone()
        found |= {f"{n}/{slot.name}": s.clone() for n, s in slot.state.items()}
    for slot, value in zip(
        program.average.slots, program.average.values(), strict=True
    ):
        found[f"ema/{slot.name}"] = value.clone()
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What each rank found, and what two single processes make of the same rows."""
    store = conversations(tmp_path_factory.mktemp("chats"))
    found = {
        rank: (
            seen,
            metrics,
            *({n: torch.tensor(v) for n, v in part.items()} for part in parts),
        )
        for rank, (seen, metrics, *parts) in in_processes(
            of_two, 2, store.folder, answers=2
        )
    }
    alone = []
    for rank in range(2):
        program = assemble(tiny_plan(global_batch_size=4, **PLAN))
        metrics = trained(program, store.folder, rank, divide=2)[1]
        alone.append((state_of(program), metrics))
        program.close()
    return found, alone


@pytest.mark.thorough
@pytest.mark.covers("DST-02: no gradient sync", "DST-02: distinct chunks per GPU")
def test_each_copy_learns_from_its_own_rows_as_if_it_were_alone(two) -> None:
    found, alone = two
    assert not [row for row in found[0][0] if row in found[1][0]]
    for rank, (wanted, _) in enumerate(alone):
        own = found[rank][2]
        assert own.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(own[name], value, rtol=1e-5, atol=1e-7)
    for name, value in found[0][2].items():
        assert value.ndim < 2 or not torch.equal(value, found[1][2][name]), name


@pytest.mark.thorough
@pytest.mark.covers("DST-02: checkpoints merged")
def test_what_is_saved_is_the_mean_of_the_copies(two) -> None:
    found, alone = two
    for name, value in alone[0][0].items():
        mean = (value + alone[1][0][name]) / 2
        for rank in range(2):  # and each goes on from there
            torch.testing.assert_close(found[rank][3][name], mean, rtol=1e-5, atol=1e-7)
    mine, theirs = found[0][4], found[1][4]
    assert mine.keys() == theirs.keys()
    for name, value in mine.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.thorough
@pytest.mark.covers("DST-02: progress tracked centrally", "DST-16: metrics aggregated")
def test_metrics_are_of_all_copies(two) -> None:
    """The loss of all rows, the mean of the norms, and the same on each rank."""
    found, alone = two
    assert found[0][1] == found[1][1]
    both = torch.tensor([metrics for _, metrics in alone])
    # Of one that counts half of the labels, each loss is a share of the whole.
    torch.testing.assert_close(
        torch.tensor(found[0][1])[:, :2], both[:, :, :2].mean(0), rtol=1e-5, atol=1e-6
    )


def test_a_step_that_one_copy_passed_over_is_seen() -> None:
    figures = torch.tensor([[1.0, 0.0, 1.0], [3.0, 1.0, 0.0]])
    assert _of_copies(figures).tolist() == [2.0, 1.0, 0.5]


def conditions(**changes):
    given = {"spec": tiny_plan().spec, "sizes": Sizes(2), "device": "cpu"}
    given |= {"compute_dtype": "float32", "compile": False}
    return Conditions(**given | changes)


@pytest.mark.covers("DST-02: --parallel-independent")
def test_how_it_is_asked_for_and_where_it_is_refused() -> None:
    assert Config(parallel_independent=True).system.parallel == "independent"
    way = chosen_way("independent")
    assert way.refuses(conditions()) is None
    assert "loss scale" in str(way.refuses(conditions(compute_dtype="float16")))
    assert "exchanges gradients" in str(
        way.refuses(conditions(optimizer_in_backward=True))
    )


def test_moments_in_few_bits_have_no_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    program = assemble(tiny_plan(optimizer="adamw_8bit"))
    monkeypatch.setattr(type(program.way), "synchronised", False)
    with pytest.raises(LuminaError, match=r"E002.*fewer bits"):
        program.merge()


@pytest.mark.thorough
def test_a_run_is_gone_on_with_as_if_it_had_never_stopped(trainings) -> None:
    flags = [*DENSE, *words("--precision fp32 --batch-size 2 --steps 6")]
    flags += words("--save-every-n-batches 3 --eval-every-n-batches 3")
    apart = [*flags, "--parallel-independent"]
    whole = trainings.train_on_ranks("whole", *apart)
    assert len(rows(whole)) == 6 and len(column(whole, "eval_loss")) == 2
    ranks = trainings.ranks("parted", *apart, HOLD_AFTER="5")
    run = trainings.folder / "parted"
    assert wait_until(reached(run, 5), ranks[0])
    assert wait_until(lambda: bool(checkpoints(run)), ranks[0])
    for rank in ranks:
        rank.kill()
    assert checkpoints(run) == ["step-00000003"]
    assert_same_run(trainings.train_on_ranks("parted", *apart, "--auto-resume"), whole)
