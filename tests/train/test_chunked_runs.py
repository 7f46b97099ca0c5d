"""Runs in chunks: against whole rows, on two ranks, and going on after a stop."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from lumina.assemble.assemble import assemble
from lumina.batch import Batch
from lumina.data.stream import StepBatches
from lumina.train.step import train_step
from networks import random_ids, shifted
from programs import tiny_plan
from training import MOE, assert_same_run, column, words

pytestmark = pytest.mark.thorough

CHUNKS = words("--use-chunked-training --chunk-size 24")
FLAGS = words(
    "--precision fp32 --lr-scheduler constant --warmup-steps 1 "
    "--save-every-n-batches 2 --eval-every-n-batches 2"
)


def test_a_run_in_chunks_is_the_run_on_two_ranks_and_after_a_stop(trainings):
    flags = [*MOE, *FLAGS]
    whole = trainings.train("whole", *flags, "--steps", "4")
    chunks = trainings.train("chunks", *flags, *CHUNKS, "--steps", "4")
    for key in ("loss", "grad_norm"):
        assert column(chunks, key) == pytest.approx(column(whole, key), rel=1e-4), key
    trainings.train("stopped", *flags, *CHUNKS, "--steps", "2")
    words_on = [*flags, *CHUNKS, "--steps", "4", "--auto-resume"]
    assert_same_run(trainings.train("stopped", *words_on), chunks)
    two = trainings.train_on_ranks(
        "ranks", *flags, *CHUNKS, *words("--steps 4 --parallel ddp --batch-size 2")
    )
    for key in ("loss", "grad_norm"):
        assert column(two, key) == pytest.approx(column(whole, key), rel=1e-4), key


@pytest.mark.covers("MEM-06: 8K, 10K, 16K, 32K contexts")
@pytest.mark.parametrize(
    ("length", "window"), [(8192, 0), (10_000, 0), (16_384, 512), (32_768, 512)]
)
def test_long_rows_in_chunks_learn_what_a_whole_row_does(length, window):
    """A narrow model of one layer, at the true length."""
    plan = tiny_plan(global_batch_size=1, micro_batch_size=1)
    shape = {
        "num_layers": 1,
        "num_heads": 1,
        "num_kv_heads": 1,
        "seq_length": length,
        "window_size": window,
    }
    plan = plan.replace(spec=replace(plan.spec, **shape))
    ids = random_ids(1, length, 300)
    step = StepBatches([Batch.from_rows(ids, shifted(ids))], length, length, {}, 0, [])
    found = []
    for size in (0, 2048):
        kernel = "blockwise" if size or window else "sdpa"
        program = assemble(plan.replace(chunk_size=size, attention=kernel))
        found.append(train_step(program, step, 0)[:2])
    torch.testing.assert_close(*found, rtol=1e-4, atol=0)
