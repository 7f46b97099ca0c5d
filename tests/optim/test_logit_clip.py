"""QK-clip against scores that are written out, in steps and in runs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lumina.assemble.assemble import assemble
from lumina.errors import LuminaError
from lumina.model.attention import Attention
from lumina.model.latent_attention import LatentAttention
from lumina.ops.attention.dispatch import Pattern, attend
from lumina.ops.attention.masks import additive, causal_mask, document_mask
from lumina.ops.largest_scores import note
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
    monkeypatch.setattr(note, "SCORES_BYTES", rows_at_a_time * 3 * 4 * 24 * 4)
    q, k = torch.randn(3, 24, 4, 8), torch.randn(3, 24, 2, 8)
    scores = torch.einsum("bshd,bthd->bhst", q, k.repeat_interleave(2, 2))
    scores = (scores / math.sqrt(8)).masked_fill(~mask, -math.inf)
    expected = scores.amax((0, 2, 3))
    found = torch.full((4,), -math.inf)
    found[1] = 100.0  # of an earlier forward pass
    expected[1] = 100.0
    note.note_largest(q, k, pattern, found)
    torch.testing.assert_close(found, expected)


def test_queries_and_keys_are_scaled_as_the_paper_says() -> None:
    """Keys of several heads by the root of the smallest factor."""
    factors = torch.tensor([1 / 16, 1.0, 1 / 4, 1.0])
    spec = tiny_plan().spec
    rows = Attention(spec, 0).rows_of_logits(factors)["qkv.weight"].view(-1, 8)
    assert rows[4:, 0].tolist() == [0.25, 0.5, 1.0, 1.0]
    assert rows[:4, 0].tolist() == [0.25, 4.0, 0.5, 2.0]
    assert (rows == rows[:, :1]).all()
    latent = LatentAttention(replace(spec, **LATENT), 0).rows_of_logits(factors)
    assert latent["q.weight"].view(4, 8)[2].tolist() == [0.5] * 4 + [0.25] * 4
    assert latent["kv_up.weight"].view(4, 10)[2].tolist() == [0.5] * 4 + [1.0] * 6


def test_a_skipped_step_clips_nothing() -> None:
    weight = nn.Parameter(torch.ones(2, 3))
    slot = Slot("q", weight, weight.detach(), True)
    noted = torch.full((2,), 16.0)
    layer = ClippedAttention({"q": slot}, lambda factors: {"q": factors}, noted)
    clip = LogitClip([layer], 1.0, Mesh().tokens)
    clip.apply(torch.ones(()))
    assert weight.eq(1).all() and noted.eq(-math.inf).all()
    noted.copy_(torch.tensor([16.0, 0.5]))
    clip.apply(torch.zeros(()))
    assert weight[:, 0].tolist() == [1 / 16, 1.0]
    assert clip.found.tolist() == [16.0, 1.0]


LATENT = {"mla_kv_rank": 12, "mla_rope_dim": 4, "mla_value_dim": 6, "num_kv_heads": 4}


def logits_of(program, batch) -> torch.Tensor:
    """[layers, heads]: the largest scores that attention makes in a forward pass."""
    found = []

    def watched(q, k, v, pattern):
        k_bshd = k.repeat_interleave(q.shape[2] // k.shape[2], 2)
        scores = torch.einsum("bshd,bthd->bhst", q, k_bshd) / math.sqrt(q.shape[-1])
        seen = (
            pattern.mask == 0
            if pattern.mask is not None
            else causal_mask(q.shape[1], q.shape[1], 0, None)
        )
        found.append(scores.masked_fill(~seen, -math.inf).amax((0, 2, 3)))
        return attend(q, k, v, pattern)

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr("lumina.model.attention.attend", watched)
        patch.setattr("lumina.model.latent_attention.attend", watched)
        program.network.eval()
        program.model(batch)
    program.network.train()
    return torch.stack(found)


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention_bias": True}, LATENT, LATENT | {"mla_q_rank": 16}],
    ids=["plain", "biases", "latent", "latent queries"],
)
def test_logits_above_the_threshold_meet_it_and_others_stay(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """Also those of heads whose keys are shared with a head that is clipped."""
    spec = replace(tiny_plan().spec, num_layers=1, **changes)
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
    scaled = (".qkv.", ".q.", ".q_up.", ".kv_up.")
    assert moved and all(any(part in name for part in scaled) for name in moved)


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
