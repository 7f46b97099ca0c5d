"""Answers by compiled blocks."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from infer.networks import MOE, prompts, tiny
from lumina.errors import LuminaError
from lumina.infer.decoding import compiled
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.generate import Decoding
from lumina.infer.kv.settings import CacheSettings
from lumina.infer.sampling import Sampling
from lumina.model.spec import HrmSpec, ModSpec, MorSpec

COMPILED = StepSettings(compile=True)


@pytest.fixture
def graphs(monkeypatch):
    """The graphs that are made; run as they are, so that no compiler is waited for."""
    made = []

    def keep(graph, inputs):
        made.append(graph)
        return graph.forward

    inner = torch.compile
    monkeypatch.setattr(torch, "compile", partial(inner, backend=keep))
    torch._dynamo.reset()
    compiled._compiled.cache_clear()
    yield made
    torch._dynamo.reset()
    compiled._compiled.cache_clear()


def answers(network, texts, stepping, **settings):
    decoding = Decoding(
        network,
        texts,
        Sampling(temperature=0),
        max_new_tokens=7,
        settings=CacheSettings(**settings),
        stepping=stepping,
    )
    list(decoding)
    return decoding.new_ids


@pytest.mark.thorough
@pytest.mark.parametrize(
    "changes",
    [
        {"num_kv_heads": 2, "qk_norm": "rms", "window_size": 6},
        {"moe": replace(MOE, layers=(0,)), "num_layers": 1},
        {"mod": ModSpec(layers=(1,))},
        {"mor": MorSpec(), "num_layers": 4},
        {"mla_kv_rank": 12, "mla_rope_dim": 4, "mla_value_dim": 6},
    ],
    ids=["window", "experts", "depth", "recursion", "latent"],
)
def test_answers_are_those_of_blocks_as_they_are(graphs, changes):
    network, texts = tiny(**changes), prompts(4)
    wanted = answers(network, texts, StepSettings())
    assert not graphs
    assert answers(network, texts, COMPILED) == wanted
    # [B, S] of [1, 1], [1, several], [several, 1], [several, several]; of experts and
    # depths, where a graph ends at what the host has to know, some more.
    assert 0 < len(graphs) <= (8 if "window_size" in changes else 64)
    for block in network.backbone.blocks:  # nothing is left behind
        assert not {"attend", "feed", "add_feed"} & block.__dict__.keys()


def test_lengths_share_graphs_and_so_do_layers(graphs):
    """Two functions, of one token or several; several rows are in the test above."""
    network = tiny(num_layers=2)

    def compared(*given):
        for texts in given:
            for settings in ({}, {"paged": True, "block": 4}):
                assert answers(network, texts, COMPILED, **settings) == answers(
                    network, texts, StepSettings(), **settings
                )

    compared([[4] * 9])
    made = len(graphs)
    assert 0 < made <= 2 * 2
    compared([prompts(5)[2]], [[4] * 23])
    assert len(graphs) == made


def test_what_cannot_be_compiled_is_refused_by_name(monkeypatch):
    reasoner = tiny(hrm=HrmSpec(mode="language_model"), num_layers=8)
    with pytest.raises(LuminaError, match=r"E002.*WaitingBlock"):
        Decoding(reasoner, [[1]], Sampling(), stepping=COMPILED)
    with pytest.raises(LuminaError, match=r"(?s)E002.*batch-invariant"):
        StepSettings(compile=True, batch_invariant=True)
    monkeypatch.setattr(compiled, "cpp_compiler", lambda: None)
    with pytest.raises(LuminaError, match=r"E003.*C\+\+ compiler"):
        Decoding(tiny(), [[1]], Sampling(), stepping=COMPILED)
