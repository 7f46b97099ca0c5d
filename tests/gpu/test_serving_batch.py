"""Requests side by side on a GPU: recorded steps over seats, against the eager ones."""

from __future__ import annotations

import pytest
import torch

from gpu.test_decoding import FUSED, _half
from infer.test_batch import BLOCKS, NAMES, asked, finish
from infer.test_decoding_step import _network
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.kv.paged_seats import PagedSeats
from lumina.infer.serving.batch import Batch
from lumina.infer.serving.seating import Limits
from lumina.model.network import Network

pytestmark = pytest.mark.gpu


def _answers(
    network: Network,
    stepping: StepSettings,
    cache_tokens: int = 0,
    padded: bool = False,
) -> Batch:
    requests = asked(5, 12, 6)
    limits = Limits(rows=4, tokens=40, cache_tokens=cache_tokens)
    batch = Batch(network, limits, BLOCKS, stepping)
    if padded:  # prompts in the shapes of recorded ones, which round as those do
        batch.prompts = batch.prompt_step()
    batch.waiting.extend(requests)
    finish(batch)
    batch.found = [one.new_ids for one in requests]  # type: ignore[attr-defined]
    return batch


@pytest.mark.covers("INF-09", "INF-06")
@pytest.mark.parametrize("name", NAMES)
def test_recorded_steps_over_seats_choose_the_tokens_of_eager_ones(name: str) -> None:
    network = _network(name).cuda()
    eager = _answers(network, StepSettings("off", "plain"))
    recorded = _answers(network, StepSettings("on", "plain"))
    assert recorded.step.path == "cuda graph" and recorded.ahead
    assert recorded.found == eager.found  # type: ignore[attr-defined]
    if recorded.prompts is not None:
        assert recorded.prompts.recordings.path == "cuda graph"
    if isinstance(recorded.seats, PagedSeats):
        crowded = _answers(network, StepSettings("on", "plain"), cache_tokens=48)
        assert crowded.found == eager.found  # type: ignore[attr-defined]


def test_compiled_blocks_are_recorded_in_prompts_and_steps() -> None:
    network = _network("grouped").cuda()
    eager = _answers(network, StepSettings("off", "plain"))
    compiled = _answers(network, StepSettings("on", "plain", compile=True))
    assert compiled.found == eager.found  # type: ignore[attr-defined]
    assert compiled.step.path == "cuda graph" and compiled.prompts is not None
    assert compiled.prompts.recordings.path == "cuda graph"


@pytest.mark.parametrize("name", FUSED)
def test_fused_steps_over_blocks_are_the_same_recorded_and_eager(name: str) -> None:
    network = _half(FUSED[name])
    eager = _answers(network, StepSettings("off", "fused"), padded=True)
    recorded = _answers(network, StepSettings("on", "fused"))
    assert recorded.found == eager.found  # type: ignore[attr-defined]
    assert recorded.step.path == "cuda graph, fused"


@pytest.mark.parametrize("name", ["grouped", "experts"])
def test_batch_invariant_answers_do_not_depend_on_what_is_beside(name: str) -> None:
    network = _half(FUSED[name])
    stepping = StepSettings(batch_invariant=True)
    together = _answers(network, stepping)
    crowded = _answers(network, stepping, cache_tokens=48)
    assert crowded.found == together.found  # type: ignore[attr-defined]
    for number, request in enumerate(asked(5, 12, 6)):
        one = Batch(network, Limits(rows=4, tokens=40), BLOCKS, stepping)
        one.waiting.append(request)
        finish(one)
        assert request.new_ids == together.found[number]  # type: ignore[attr-defined]
    torch.cuda.synchronize()
