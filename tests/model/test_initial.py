"""What a model is before its first step, and what its options make of it."""

from __future__ import annotations

import math

import pytest
import torch

import lumina
from lumina.batch import Batch
from lumina.cli.options import add_config_options, config_from_args
from lumina.cli.parsing import Parser, parse

EXPERTS = 16
ROUTED = {
    "preset": "debug", "use_moe": True, "num_experts": EXPERTS, "moe_top_k": 1,
    "moe_intermediate_size": 16, "hidden_size": 64, "num_heads": 2, "vocab_size": 1024,
    "load_balancing_weight": 0.0, "router_z_loss_weight": 0.0,
}  # fmt: skip


def first_routing(**options):
    """(largest load over the even share, entropy of the scores over its most)."""
    model = lumina.build_model(lumina.Config(**ROUTED | options))
    g = torch.Generator().manual_seed(7)
    ids = torch.randint(0, 1024, (64, 32), generator=g)
    seen = {}
    router = model.backbone.blocks[0].feedforward.router
    router.register_forward_hook(lambda module, given, logits: seen.update(l=logits))
    _, aux = model(Batch.from_rows(ids, ids.roll(-1, 1)))
    load = aux["moe.counts"] / aux["moe.counts"].sum(1, keepdim=True) * EXPERTS
    score = seen["l"].float().softmax(-1)
    entropy = -(score * score.log()).sum(-1).mean() / math.log(EXPERTS)
    return load.max().item(), entropy.item(), load.std(dim=1).mean().item()


def mean_over_seeds(**options):
    runs = [first_routing(seed=seed, **options) for seed in range(4)]
    return [sum(values) / len(values) for values in zip(*runs, strict=True)]


@pytest.mark.covers("MOD-10: --init-std", "MOD-10: --use-stable-embedding")
def test_flags_set_the_first_values_of_weights_vectors_and_routers(tmp_path):
    """--init-std, --use-stable-embedding, --router-init; through the file they are
    saved to. A router's first choices are then more even."""
    path = tmp_path / "run.yaml"
    parser = Parser(prog="lumina test")
    add_config_options(parser, dry_run=True)
    words = ["--init-std", "0.015", "--vocab-size", "1024", "--no-use-moe"]
    for more in ([], ["--use-stable-embedding"]):
        config_from_args(parse(parser, [*words, *more])).save(path)
        model = lumina.build_model(lumina.Config.load(path))
        table = model.backbone.embedding.weight.detach()
        qkv = model.backbone.blocks[0].attention.qkv.weight
        assert qkv.std().item() == pytest.approx(0.015, rel=0.03)
        if not more:
            assert table.std().item() == pytest.approx(0.015, rel=0.03)
            continue
        bound = math.sqrt(6 / sum(table.shape))
        assert table.abs().max() <= bound
        assert table.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.03)
    given = ["--init-std", "0.015", "--router-init", "orthogonal"]
    config_from_args(parse(parser, given)).save(path)
    asked = lumina.Config.load(path)
    assert asked.moe.router_init == "orthogonal"
    even, usual = (
        mean_over_seeds(init_std=asked.model.init_std, router_init=kind)
        for kind in (asked.moe.router_init, "normal")
    )
    assert even[2] < 0.8 * usual[2]


def test_token_vectors_that_run_away_do_not_with_a_stable_embedding():
    """A token whose vector grew a thousandfold changes what comes out no more."""
    ids = torch.randint(0, 1024, (1, 16), generator=torch.Generator().manual_seed(1))
    largest = {}
    for stable in (False, True):
        config = lumina.Config(
            preset="debug",
            vocab_size=1024,
            use_moe=False,
            tie_embeddings=False,
            use_stable_embedding=stable,
        )
        model = lumina.build_model(config)
        before = model.logits(ids)
        with torch.no_grad():
            model.backbone.embedding.weight[ids[0, 3]] *= 1000.0
        inside = {}
        model.backbone.blocks[0].register_forward_pre_hook(
            lambda module, given, inside=inside: inside.update(x=given[0])
        )
        moved = (model.logits(ids) - before).abs().max()
        largest[stable] = inside["x"].abs().max().item(), moved.item()
    width = model.spec.hidden_size
    assert largest[True][0] <= math.sqrt(width)  # no value is above the whole length
    assert largest[False][0] > 10 * largest[True][0]
    assert largest[True][1] < 0.05 * largest[False][1]


@pytest.mark.covers(
    "MOD-10: initial-router initialisation that avoids early expert specialisation"
)
def test_orthogonal_routers_prefer_no_expert():
    """Their first load is nearer to even, their first scores are nearly uniform."""
    normal = mean_over_seeds(router_init="normal")
    orthogonal = mean_over_seeds(router_init="orthogonal")
    assert orthogonal[2] < 0.8 * normal[2]  # spread of the load
    assert orthogonal[0] < normal[0] and orthogonal[0] < 2
    # The first choice knows no scale, the first scores do.
    wide, small = (
        mean_over_seeds(router_init="orthogonal", router_init_std=std)
        for std in (0.5, 0.002)
    )
    assert wide[0] == pytest.approx(small[0], rel=0.1)
    assert small[1] > 0.9999 and wide[1] < 0.9
