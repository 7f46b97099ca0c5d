"""Rows of 8,192 tokens and more in chunks of 1,024: the step of the whole row."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lumina.assemble.assemble import assemble
from lumina.batch import Batch
from lumina.config import Config
from lumina.data.stream import StepBatches
from lumina.measure.live_bytes import LiveBytes
from lumina.train.step import SCALARS, train_step
from machines import plan_for

SHAPE = {
    "hidden_size": 16, "intermediate_size": 32, "num_layers": 1, "num_heads": 1,
    "num_kv_heads": 1, "vocab_size": 64, "use_moe": False, "compile": False,
    "batch_size": 1, "global_batch_size": 1, "steps": 2, "precision": "fp32",
    "warmup_steps": 0, "learning_rate": 1e-2, "gradient_checkpointing": "full",
}  # fmt: skip


def step_of(
    length: int, **options: Any
) -> tuple[dict[str, float], int, dict[str, torch.Tensor]]:
    """Figures of a step on one document, most bytes that it held, and weights then."""
    plan = plan_for(Config(seq_length=length, **(SHAPE | options)))
    program = assemble(plan)
    ids = torch.randint(0, 64, (1, length + 1), generator=torch.manual_seed(3))
    batch = Batch.from_rows(ids[:, :-1], ids[:, 1:])
    batches = StepBatches([batch], length, length, {}, None, [])
    with LiveBytes() as live:
        values = train_step(program, batches, 0)
    figures = dict(zip(SCALARS, values.tolist(), strict=False))
    weights = dict(program.network.state_dict())
    return figures, live.peak, {name: one.clone() for name, one in weights.items()}


@pytest.mark.parametrize(
    "length",
    [
        pytest.param(
            8192,
            marks=[
                pytest.mark.thorough,
                pytest.mark.covers(
                    "MTX-20: Long context (10000) + chunking (1024) + checkpointing "
                    "+ AMP",
                    "MTX-20: 8K",
                ),
            ],
        ),
        pytest.param(
            16384, marks=[pytest.mark.slow, pytest.mark.covers("MTX-20: 16K")]
        ),
        pytest.param(
            32768, marks=[pytest.mark.slow, pytest.mark.covers("MTX-20: 32K")]
        ),
    ],
)
def test_chunks_take_the_step_of_the_whole_row_in_less(length: int) -> None:
    whole, most, weights = step_of(length)
    chunks = {"use_chunked_training": True, "chunk_size": 1024}
    same, less, moved = step_of(length, **chunks)
    for name in ("loss", "grad_norm"):
        assert same[name] == pytest.approx(whole[name], rel=1e-5), name
    assert less < most / 3
    for name, tensor in weights.items():  # AdamW's first step is the gradient's sign
        assert (moved[name] - tensor).abs().mean() < 1e-4, name
    rounded, least, _ = step_of(length, **(chunks | {"precision": "mixed_bf16"}))
    assert rounded["loss"] == pytest.approx(whole["loss"], rel=1e-2) and least < less
