"""A device that computes wrongly: found in the run, and before it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from lumina import Config, Trainer
from lumina.errors import LuminaError
from lumina.train.recovery import preflight, repeat
from mechanisms import mechanism
from training import DENSE, Trainings, assert_ranks_end, events, rows, words

SHOWN = ("step", "tokens", "loss", "grad_norm", "learning_rate", "epoch", "skipped")


def shown(config: Config) -> list[tuple[Any, ...]]:
    run = Trainer(config).train().run_dir
    return [tuple(row.get(key) for key in SHOWN) for row in rows(run)]


@contextmanager
def one_bit_flips(*calls: int) -> Iterator[None]:
    """In some of the computations of a check, one bit of one gradient."""
    compute, made = repeat.losses_of, list[int]()

    def flipped(grad: torch.Tensor) -> torch.Tensor:
        grad = grad.clone()
        grad.view(-1)[:1].view(torch.int32).bitwise_xor_(1)
        return grad

    def computed(program: Any, *arguments: Any) -> Any:
        made.append(1)
        if len(made) not in calls:
            return compute(program, *arguments)
        parameter = program.optimizer.slots[3].parameter
        hook = parameter.register_hook(lambda grad: (hook.remove(), flipped(grad))[1])
        return compute(program, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(repeat, "losses_of", computed)
        yield


@pytest.mark.thorough
def test_a_check_changes_nothing_where_the_device_is_whole(
    tiny_config: Config,
) -> None:
    config = tiny_config.replace(steps=6, deterministic=True, use_moe=True)
    config = config.replace(num_experts=4, dropout=0.1)
    here = str(config.run.run_dir)
    plain = shown(config.replace(run_dir=f"{here}-plain"))
    assert shown(config.replace(repeat_check_every=2)) == plain


@mechanism(
    "wrong computation",
    component="step",
    failure="one bit of a result flips: a step computed twice gives other bits",
    recovery="roll back",
    expected="E305; back to a state known to be good; figures as of a whole device",
    real=False,
)
@pytest.mark.thorough
def test_one_flipped_bit_takes_the_run_back(tiny_config: Config) -> None:
    """To what is known to be good, and it goes on as a run on a whole device does."""
    config = tiny_config.replace(
        deterministic=True, repeat_check_every=4, snapshot_every=2, known_good_after=2
    )
    here = str(config.run.run_dir)
    plain = shown(config.replace(run_dir=f"{here}-plain"))
    with one_bit_flips(4):  # the second computation before step 8
        run = Trainer(config).train().run_dir
    told = events(run, "silent_corruption")
    assert [(e["step"], e["code"]) for e in told] == [(7, "E305")]
    assert events(run, "rolled_back")[0]["step"] == 4
    assert [tuple(row.get(key) for key in SHOWN) for row in rows(run)] == plain


@mechanism(
    "wrong computation with nothing good",
    component="step",
    failure="a step computed twice gives other bits, and nothing is known to be good",
    recovery="refuse",
    expected="E305; the run ends and points to the test of the device",
    real=False,
)
def test_without_anything_good_the_run_ends(tiny_config: Config) -> None:
    config = tiny_config.replace(deterministic=True, repeat_check_every=3)
    with one_bit_flips(1), pytest.raises(LuminaError) as caught:
        Trainer(config).train()
    assert caught.value.code == "E305" and "step 3" in caught.value.message
    assert "--preflight" in caught.value.hint


@mechanism(
    "device that fails its test",
    component="memory",
    failure="memory or products of the device are wrong in the test before a run",
    recovery="refuse",
    expected="E306; no run is begun",
    real=False,
)
@pytest.mark.parametrize(
    ("name", "wrong", "words"),
    [
        ("_wrong_bytes", lambda block, pattern: (block != pattern).sum() + 1, "bytes"),
        ("ERRORS", dict.fromkeys(preflight.ERRORS, -1.0), "a product of 64 x 64 x 64"),
    ],
)
def test_a_device_that_fails_its_test_is_refused(
    tiny_config: Config,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    wrong: Any,
    words: str,
) -> None:
    """Before the run, which leaves no folder."""
    monkeypatch.setattr(preflight, name, wrong)
    config = tiny_config.replace(preflight=True)
    with pytest.raises(LuminaError) as caught:
        Trainer(config).train()
    assert caught.value.code == "E306" and words in caught.value.message
    assert not Path(str(config.run.run_dir)).exists()


def test_a_device_without_room_for_its_test_is_not_called_broken(
    tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried 1.40 GiB")

    monkeypatch.setattr(preflight, "_wrong_bytes", full)
    with pytest.raises(LuminaError) as caught:
        Trainer(tiny_config.replace(preflight=True)).train()
    assert caught.value.code == "E201" and "1.40 GiB" in caught.value.message
    assert "--preflight" in caught.value.hint


def flips_on_rank_1(*, sums: bool = False) -> None:
    """In a child: rank 1 computes wrongly in a check, or in the test before the run."""
    if os.environ["RANK"] != "1":
        return
    if sums:
        reduce = preflight.dist.all_reduce

        def wrong(tensor: torch.Tensor, **options: Any) -> None:
            reduce(tensor, **options)
            if tensor.numel() == 4096:
                tensor[5] += 1

        preflight.dist.all_reduce = wrong  # type: ignore[assignment]
    else:
        bits = repeat._bits
        made: list[int] = []

        def flipped(tensor: torch.Tensor) -> torch.Tensor:
            made.append(1)
            return bits(tensor) + (len(made) == 1)

        repeat._bits = flipped


FLAGS = [*DENSE, *words("--precision fp32 --steps 6 --warmup-steps 2 --batch-size 2")]


@mechanism(
    "rank that computes wrongly",
    component="rank",
    failure="one of two ranks computes other bits than before",
    recovery="refuse",
    expected="the rank is named on both",
    real=False,
)
@pytest.mark.thorough
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_the_rank_that_computes_wrongly_is_named(
    trainings: Trainings, parallel: str
) -> None:
    flags = [*FLAGS, *words(f"--parallel {parallel} --deterministic")]
    running = trainings.ranks(
        parallel, *flags, "--repeat-check-every", "3", before=flips_on_rank_1
    )
    assert_ranks_end(running, 1)
    told = events(trainings.folder / parallel, "silent_corruption")[0]
    assert told["data"]["ranks"] == [1]
    assert "E305" in running[0].output and "on rank 1" in running[0].output


@pytest.mark.thorough
def test_every_rank_is_tested_before_a_run(trainings: Trainings) -> None:
    good = trainings.ranks("tested", *FLAGS, "--preflight")
    assert_ranks_end(good)
    told = events(trainings.folder / "tested", "preflight")[0]["message"]
    assert "on each of 2 ranks, and a sum over them" in told
    bad = trainings.ranks(
        "refused", *FLAGS, "--preflight", before=partial(flips_on_rank_1, sums=True)
    )
    assert_ranks_end(bad, 1)
    assert "rank 1: 1 of 4,096 sums" in bad[0].output
