"""QK-clip against scores that are written out, in steps and in runs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from lumina.assemble.assemble import assemble
from lumina.errors import LuminaError
from lumina.model.attention import Attention
from lumina.ops.attention import largest
from lumina.ops.attention.dispatch import Pattern
from lumina.ops.attention.masks import additive, causal_mask, document_mask
from lumina.optim.logit_clip import ClippedAttention, LogitClip
from lumina.optim.optimizer import Slot
from lumina.parallel.mesh import Mesh
from programs import conversations, stream_of, take_steps, tiny_plan
from training import (
    DENSE,
    Trainings,
    checkpoints,
    column,
    final_tensors,
    reached,
    wait_until,
    words,
)


def documents(rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor(
        [[n for n, size in enumerate(row) for _ in range(size)] for row in rows]
    )


IDS = documents([[5, 7, 12], [24, 0, 0], [1, 22, 1]])
STARTS = torch.tensor([0, 5, 12, 24, 48, 49, 71, 72], dtype=torch.int32)
PATTERNS = {
    "causal": (Pattern("sdpa"), causal_mask(24, 24, 0, None)),
    "all": (Pattern("sdpa", causal=False), torch.ones(1, 1, 24, 24, dtype=torch.bool)),
    "documents": (Pattern("reference", document_mask(IDS, 0)), document_mask(IDS, 0)),
    "added": (
        Pattern("sdpa", additive(document_mask(IDS, 4), torch.float32)),
        document_mask(IDS, 4),
    ),
    "varlen": (Pattern("varlen", None, STARTS, 24), document_mask(IDS, 0)),
    "window": (Pattern("varlen", None, STARTS, 24, 3), document_mask(IDS, 3)),
}


@pytest.mark.parametrize("rows_at_a_time", [1, 5, 100])
@pytest.mark.parametrize("name", PATTERNS)
def test_the_largest_score_of_each_head_is_found(
    name: str, rows_at_a_time: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pattern, mask = PATTERNS[name]
    monkeypatch.setattr(largest, "SCORES_BYTES", rows_at_a_time * 3 * 4 * 24 * 4)
    q, k = torch.randn(3, 24, 4, 8), torch.randn(3, 24, 2, 8)
    scores = torch.einsum("bshd,bthd->bhst", q, k.repeat_interleave(2, 2))
    scores = (scores / math.sqrt(8)).masked_fill(~mask, -math.inf)
    expected = scores.amax((0, 2, 3))
    found = torch.full((4,), -math.inf)
    found[1] = 100.0  # of an earlier forward pass
    expected[1] = 100.0
    largest.note_largest(q, k, pattern, found)
    torch.testing.assert_close(found, expected)


def test_queries_and_keys_of_one_head_are_scaled_alike() -> None:
    """By the root of t / m each, as in the paper; keys of several by the smallest."""
    rows = torch.ones(2 * (4 + 2 + 2), 3)
    slot = Slot("qkv", nn.Parameter(rows), rows, True)
    largest_logits = torch.tensor([16.0, 1.0, 2.0, 4.0])
    layer = ClippedAttention([slot], 4, 2, 2, largest_logits)
    LogitClip([layer], 1.0, Mesh().tokens).apply(torch.zeros(()))
    heads = rows[::2, 0].tolist()
    assert heads[4:] == [0.25, 0.5, 1.0, 1.0]
    assert heads[:4] == [0.25, 4.0, 1.0, 0.5]
    assert rows[::2].equal(rows[1::2]) and layer.largest.eq(-math.inf).all()
    layer.largest.fill_(16.0)
    LogitClip([layer], 1.0, Mesh().tokens).apply(torch.ones(()))  # a skipped step
    assert rows[::2, 0].tolist() == heads


def logits_of(program, batch) -> torch.Tensor:
    """[layers, heads]: the largest logits of one forward pass of training."""
    found = []
    for module in program.network.modules():
        if isinstance(module, Attention):
            module.largest_logits = torch.full((module.heads[0],), -math.inf)
            found.append(module.largest_logits)
    program.network.train()
    with torch.no_grad():
        program.model(batch)
    return torch.stack(found)


@pytest.mark.parametrize("bias", [False, True])
def test_logits_above_the_threshold_meet_it_and_others_stay(
    tmp_path: Path, bias: bool
) -> None:
    """Also those of heads whose keys are shared with a head that is clipped."""
    spec = replace(tiny_plan().spec, num_layers=1, attention_bias=bias)
    stream = stream_of(conversations(tmp_path))
    batch = (
        stream.step(dict(stream.start), rank=0, data_ranks=1, micro_batch_size=8)
        .micro_batches[0]
        .to(torch.device("cpu"))
    )
    # A rate at which a step itself moves nothing.
    still = {"spec": spec, "learning_rate": 1e-30, "min_lr": 0.0, "weight_decay": 0.0}
    plain = assemble(tiny_plan(**still))
    for name, parameter in plain.network.named_parameters():
        if name.endswith("qkv.bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    before = logits_of(plain, batch)
    threshold = float(before[0, :2].mean())  # two heads with the same keys
    clipped = assemble(tiny_plan(**still, qk_clip=threshold))
    clipped.network.load_state_dict(plain.network.state_dict())
    take_steps(clipped, stream, 1)
    after = logits_of(clipped, batch)
    torch.testing.assert_close(after, before.clamp(max=threshold))
    assert (before[0, :2] > threshold).sum() == 1
    held, moved = dict(plain.network.named_parameters()), []
    for name, parameter in clipped.network.named_parameters():
        if not parameter.equal(held[name]):
            moved.append(name)
        if name.endswith("qkv.weight"):  # values stay
            assert parameter[-16:].equal(held[name][-16:])
    assert moved and all("attention.qkv." in name for name in moved)


def test_frozen_attention_is_refused() -> None:
    with pytest.raises(LuminaError, match=r"E002.*does not train"):
        assemble(tiny_plan(qk_clip=1.0, freeze=("*.attention.*",)))


CLIPPED = words("--precision fp32 --steps 5 --qk-clip 0.05 --learning-rate 0.01")


@pytest.mark.thorough
def test_evaluations_and_a_kill_change_nothing(trainings: Trainings) -> None:
    plain = trainings.train("plain", *DENSE, *words("--precision fp32 --steps 5"))
    whole = trainings.train("whole", *DENSE, *CLIPPED)
    assert column(plain, "loss") != column(whole, "loss")
    often = [*CLIPPED, *words("--save-every-n-batches 2 --eval-every-n-batches 1")]
    often += ["--auto-resume"]
    running = trainings.start("often", *DENSE, *often, HOLD_AFTER="3")
    folder = trainings.folder / "often"
    assert wait_until(lambda: "step-00000002" in checkpoints(folder), running)
    assert wait_until(reached(folder, 3), running)
    running.kill()
    resumed = trainings.train("often", *DENSE, *often)
    assert column(resumed, "loss") == column(whole, "loss")
    one, two = final_tensors(whole), final_tensors(resumed)
    assert all(two[key].equal(tensor) for key, tensor in one.items())


def eager(trainings: Trainings) -> Path:
    """The run on one rank, made once."""
    folder = trainings.folder / "eager"
    return folder if folder.exists() else trainings.train("eager", *DENSE, *CLIPPED)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "flags",
    ["--gradient-checkpointing full", "--compile --gradient-checkpointing selective"],
)
def test_recomputed_and_compiled_blocks_note_the_same_logits(
    trainings: Trainings, flags: str
) -> None:
    one = final_tensors(eager(trainings))
    two = final_tensors(trainings.train(flags, *DENSE, *CLIPPED, *words(flags)))
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("parallel", ["ddp", "fsdp2"])
def test_two_ranks_clip_what_one_rank_clips(
    trainings: Trainings, parallel: str
) -> None:
    alone = eager(trainings)
    found = trainings.train_on_ranks(
        parallel, *DENSE, *CLIPPED, *words(f"--batch-size 2 --parallel {parallel}")
    )
    assert column(found, "loss") == pytest.approx(column(alone, "loss"), rel=2e-4)
    one, two = final_tensors(alone), final_tensors(found)
    for key, tensor in one.items():
        gap = (two[key].double() - tensor.double()).norm()
        assert gap <= 2e-3 * tensor.double().norm() + 1e-6, key
