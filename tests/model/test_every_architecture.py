"""Mistakes earlier systems made, and reductions that must hold, for every architecture.

One table of architectures, one test for each check; a row says what cannot apply to it,
and why. What belongs to one architecture alone, puzzles among them, is in the tests
beside this one; kernels stand against their references in `tests/ops`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lumina.batch import Batch
from lumina.infer.generate import Decoding, new_cache
from lumina.infer.sampling import Sampling
from lumina.model.build import build_network
from lumina.model.interface import LossSums
from lumina.model.kinds.table import loss_terms
from lumina.model.network import Network
from lumina.model.spec import HrmSpec, ModelSpec, ModSpec, MoeSpec, MorSpec
from networks import packed_batch, random_ids, shifted, tiny_spec

VOCABULARY, LENGTH = 100, 24
EXPERTS = MoeSpec(num_experts=4, top_k=2, intermediate_size=24, layers=(0, 1, 2))
DEPTH = ModSpec(layers=(0, 2), capacity=0.5, ladder=(0.5,))
RECURSION = MorSpec(recursions=3)
REASONER = HrmSpec(
    mode="language_model",
    h_layers=1,
    l_layers=2,
    halt_max_steps=3,
    halt_exploration=0.0,
)


@dataclass(frozen=True)
class Architecture:
    """A row of the table.

    Attributes:
        changes: of `tiny_spec`.
        looks_ahead: choosing among a row's tokens in training sees all of them; that
            is why evaluation and generation ask a causal predictor.
        shares_places: rows compete for the places of an expert in training; what that
            does is in the documents. Evaluation drops nobody.
        idle: parameters that cross entropy alone does not teach, by a part of the name.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    looks_ahead: bool = False
    shares_places: bool = False
    idle: tuple[str, ...] = ()


def experts(**changes: Any) -> dict[str, Any]:
    return {"moe": replace(EXPERTS, **changes)}


def depth(**changes: Any) -> dict[str, Any]:
    return {"mod": replace(DEPTH, **changes)}


def recursion(**changes: Any) -> dict[str, Any]:
    return {"mor": replace(RECURSION, **changes), "num_layers": 4}


CHOOSES = {"looks_ahead": True, "idle": ("predictor",)}
TABLE: dict[str, Architecture] = {
    "dense": Architecture(),
    "window": Architecture({"window_size": 5}),
    "window, sinks, dilation": Architecture(
        {"window_size": 3, "attention_sinks": 2, "attention_dilation": 4}
    ),
    "latent attention": Architecture(
        {"mla_kv_rank": 12, "mla_rope_dim": 4, "mla_value_dim": 6}
    ),
    "experts": Architecture(experts()),
    "experts, sigmoid and shared": Architecture(
        experts(score="sigmoid", score_scale=1.5, shared_experts=1)
    ),
    "experts, groups and bias": Architecture(
        experts(groups=2, top_groups=1, bias_update_rate=0.01, normalise_top_k=False)
    ),
    "experts, capacity": Architecture(
        experts(dispatch="capacity", capacity_factor=0.6), shares_places=True
    ),
    "depth of blocks": Architecture(depth(), **CHOOSES),
    "depth of feed-forwards": Architecture(depth(scope="feedforward"), **CHOOSES),
    "depth by position": Architecture(depth(routing="fixed")),
    "depth, static": Architecture(depth(mode="static")),
    "depth in a window": Architecture(depth() | {"window_size": 5}, **CHOOSES),
    "experts and depth": Architecture(experts() | depth(), **CHOOSES),
    "experts beside depth": Architecture(experts(layers=(1,)) | depth(), **CHOOSES),
    "recursion": Architecture(recursion(), looks_ahead=True),
    "recursion by token": Architecture(recursion(routing="token_choice", alpha=1.0)),
    "recursion, shared keys": Architecture(
        recursion(kv_sharing=True), looks_ahead=True
    ),
    "recursion and experts": Architecture(
        recursion() | experts(layers=(1, 2)), looks_ahead=True
    ),
    "reasoner": Architecture(
        {"hrm": REASONER, "num_kv_heads": 4, "init_std": 0.3}, idle=("halting",)
    ),
}
ALL = pytest.mark.parametrize("name", TABLE)


def spec_of(name: str, **changes: Any) -> ModelSpec:
    return tiny_spec(**({"num_layers": 3} | TABLE[name].changes | changes))


def network_of(name: str, seed: int = 1, **changes: Any) -> Network:
    """With random weights, large enough that every part matters."""
    network = build_network(spec_of(name, **changes), seed=seed)
    if network.spec.hrm is not None:  # its tokens halt after one to three segments
        with torch.no_grad():
            g = torch.Generator().manual_seed(seed)
            network.backbone.halting.weight.normal_(0, 0.3, generator=g)
            network.backbone.halting.bias.copy_(torch.tensor([-0.4, 0.0]))
    return network.train()


def cross_entropy(losses: LossSums) -> Tensor:
    """What is minimised, without further terms."""
    return losses.loss_sum if losses.trained_sum is None else losses.trained_sum


def those(chosen: Any) -> Any:
    """The rows of the table for which `chosen(architecture)`."""
    return pytest.mark.parametrize("name", [n for n, a in TABLE.items() if chosen(a)])


# -- attention not causal: the "language model" learned to copy ------------------------


def assert_causal(network: Network) -> None:
    ids = random_ids(2, LENGTH)
    before = network.logits(ids)
    for t in (3, 11, LENGTH - 1):
        changed = ids.clone()
        changed[:, t] = (changed[:, t] + 1) % VOCABULARY
        moved = (network.logits(changed) - before).abs().amax(-1)
        assert moved[:, :t].max() < 1e-5
        assert moved[:, t].min() > 1e-4


@pytest.mark.covers("MOD-30")
@ALL
def test_no_token_changes_what_comes_before_it(name: str) -> None:
    assert_causal(network_of(name).eval())


@those(lambda a: not a.looks_ahead)
def test_nor_in_training_where_nobody_chooses_among_the_tokens(name: str) -> None:
    assert_causal(network_of(name))


@those(lambda a: a.looks_ahead)
def test_choosing_among_the_tokens_does_look_ahead(name: str) -> None:
    """So evaluating as it trains would flatter it."""
    network, ids = network_of(name), random_ids(1, LENGTH)
    changed = ids.clone()
    changed[:, 12:] = (changed[:, 12:] + 1) % VOCABULARY
    assert (network.logits(changed) - network.logits(ids))[:, :12].abs().max() > 1e-3


# -- devices without float64, such as Apple GPUs ---------------------------------------


class Float64(TorchDispatchMode):
    """While it is entered, operations that give float64 are written down."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for one in tree_leaves(result):
            if isinstance(one, Tensor) and one.dtype == torch.float64:
                self.found.add(str(func))
        return result


@pytest.mark.covers("PRE-06: MPS")
@ALL
def test_nothing_is_computed_in_float64(name: str) -> None:
    """Puzzles are, and refused on Apple GPUs: tests/plan/test_devices.py."""
    network, ids = network_of(name), random_ids(2, LENGTH)
    with Float64() as seen:
        losses, aux = network(Batch.from_rows(ids, shifted(ids)))
        total = cross_entropy(losses)
        for term in loss_terms(network.spec):
            total = total + term.weight * aux[term.key]
        total.backward()
        network.eval().logits(ids)
    assert not seen.found
    with Float64() as seen:
        torch.ones(1).double()
    assert seen.found == {"aten._to_copy.default"}


# -- loss fell on anything -------------------------------------------------------------


def held_out_after(network: Network, steps: int, copy: bool = False) -> float:
    """Trained on random tokens; the loss on others, in nats a token."""
    optimizer = torch.optim.Adam(network.parameters(), lr=5e-3)

    def batch(seed: int, rows: int) -> Batch:
        ids = random_ids(rows, LENGTH, seed=seed)
        return Batch.from_rows(ids, ids if copy else shifted(ids))

    for step in range(steps):
        losses, aux = network(batch(step, 8))
        total = cross_entropy(losses) / losses.weight_sum
        for term in loss_terms(network.spec):
            total = total + term.weight * aux[term.key] / (8 * LENGTH * term.layers)
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        losses, _ = network.eval()(batch(999, 48))
    return (losses.loss_sum / losses.weight_sum).item()


@ALL
def test_random_tokens_cannot_be_learned(name: str) -> None:
    loss = held_out_after(network_of(name, init_std=0.05), 20)
    assert loss > math.log(VOCABULARY) - 0.02


def test_a_model_that_sees_its_answer_does_learn_them() -> None:
    """The same steps, with labels that were not shifted: the test above can fail."""
    loss = held_out_after(network_of("dense", init_std=0.05), 20, copy=True)
    assert loss < math.log(VOCABULARY) - 0.3


# -- router multiplied by 0.0; auxiliary loss constant ---------------------------------


@pytest.mark.covers("MOD-28: learned router scores all tokens")
@ALL
def test_cross_entropy_alone_teaches_every_router_and_weight(name: str) -> None:
    network = network_of(name)
    losses, _ = network(packed_batch([[10, 8], [24]], LENGTH))
    cross_entropy(losses).backward()
    routers = 0
    for parameter_name, parameter in network.named_parameters():
        if any(part in parameter_name for part in TABLE[name].idle):
            continue
        routers += "router" in parameter_name
        assert parameter.grad is not None, parameter_name
        rows = parameter.grad.flatten(1) if parameter.ndim > 1 else parameter.grad[None]
        assert rows.norm() > 1e-4, parameter_name
    assert routers == router_count(network.spec)


def router_count(spec: ModelSpec) -> int:
    found = len(spec.moe.layers) if spec.moe is not None else 0
    if spec.mod is not None and spec.mod.learned:
        found += len(spec.mod.layers)
    return found + (spec.mor is not None)


TERMS = [(name, term.key) for name in TABLE for term in loss_terms(spec_of(name))]


@pytest.mark.parametrize(("name", "key"), TERMS)
def test_every_further_loss_teaches_something(name: str, key: str) -> None:
    network = network_of(name)
    for module in network.modules():  # an even load makes the balance loss flat
        if hasattr(module, "load"):
            module.load.copy_(torch.rand_like(module.load).softmax(0))
    _, aux = network(packed_batch([[10, 8], [24]], LENGTH))
    aux[key].backward()
    kinds = ("router", "predictor", "halting")
    taught = [
        p.grad.norm()
        for n, p in network.named_parameters()
        if p.grad is not None and any(kind in n for kind in kinds)
    ]
    assert taught and max(taught) > 1e-3


# -- top-k over the whole batch --------------------------------------------------------


def assert_rows_apart(network: Network) -> None:
    batch = packed_batch([[10, 8], [24], [24]], LENGTH)
    ids = batch.input_ids.clone()
    ids[1:] = (ids[1:] + 17) % VOCABULARY
    ids[0, 18:] = 55  # padding
    hidden = [
        network.backbone(b).hidden[0, :18]
        for b in (batch, replace(batch, input_ids=ids))
    ]
    torch.testing.assert_close(*hidden, atol=1e-5, rtol=1e-5)


@ALL
def test_other_rows_and_padding_do_not_change_a_row(name: str) -> None:
    network = network_of(name)
    assert_rows_apart(network.eval())
    if not TABLE[name].shares_places:
        assert_rows_apart(network.train())


# -- everything computed, then masked --------------------------------------------------

SAVINGS = {
    "depth of blocks": (depth(capacity=0.25), depth(capacity=1.0, ladder=(1.0,))),
    "depth of feed-forwards": (
        depth(scope="feedforward", capacity=0.25),
        depth(scope="feedforward", capacity=1.0, ladder=(1.0,)),
    ),
    "depth by position": (
        depth(routing="fixed", capacity=0.25),
        depth(routing="fixed", capacity=1.0),
    ),
    "experts and depth": (
        experts() | depth(capacity=0.25),
        experts() | depth(capacity=1.0, ladder=(1.0,)),
    ),
    "experts, capacity": (
        experts(dispatch="capacity", capacity_factor=0.5),
        experts(dispatch="capacity", capacity_factor=2.0),
    ),
    "recursion": (recursion(), recursion(mode="static")),
    "recursion by token": (
        recursion(routing="token_choice", capacity_factor=0.5),
        recursion(routing="token_choice", capacity_factor=1.5),
    ),
    "recursion, shared keys": (
        recursion(kv_sharing=True),
        recursion(mode="static"),
    ),
}
"""Name -> the same with few and with many tokens in."""


def executed(spec: ModelSpec, length: int = 48) -> int:
    """Operations of a forward and backward, counted by torch from what ran."""
    ids = random_ids(2, length)
    network = build_network(spec, seed=1)
    with FlopCounterMode(display=False) as counter:
        losses, _ = network(Batch.from_rows(ids, shifted(ids)))
        losses.loss_sum.backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("name", SAVINGS)
def test_executed_operations_fall_with_the_tokens_taken(name: str) -> None:
    few, many = (executed(tiny_spec(**({"num_layers": 3} | c))) for c in SAVINGS[name])
    assert few < 0.85 * many


# -- capacity factor stored and unused -------------------------------------------------


def test_dropped_assignments_follow_the_capacity() -> None:
    dropped = []
    for factor in (0.25, 0.5, 1.0, 4.0):
        moe = experts(dispatch="capacity", capacity_factor=factor)["moe"]
        network = network_of("experts, capacity", moe=moe)
        _, aux = network(packed_batch([[24], [24]], LENGTH))
        dropped.append(int(aux["moe.dropped"].sum()))
        _, aux = network.eval()(packed_batch([[24], [24]], LENGTH))
        assert aux["moe.dropped"].sum() == 0
    # 96 assignments a layer; a quarter of an even share leaves 6 places an expert.
    assert dropped[0] >= 3 * (96 - 24)
    assert dropped[0] > dropped[1] > dropped[2] > dropped[3] == 0


# -- "chunked training" ----------------------------------------------------------------


@ALL
def test_a_loss_in_chunks_has_the_gradients_of_the_whole(name: str) -> None:
    batch, found = packed_batch([[10, 8], [24]], LENGTH), []
    for size in (2**30, 5 * 128 * 4):
        network = network_of(name)
        whole = build_network(network.spec, loss_chunk_bytes=size, seed=1)
        whole.load_state_dict(network.state_dict())
        losses, _ = whole.train()(batch)
        cross_entropy(losses).backward()
        found.append((losses.loss_sum, [p.grad for p in whole.parameters()]))
    torch.testing.assert_close(found[0][0], found[1][0])
    for one, two in zip(found[0][1], found[1][1], strict=True):
        assert (one is None) == (two is None)
        if one is not None:
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


# -- generation ------------------------------------------------------------------------


@pytest.mark.covers("MOD-30")
@ALL
def test_cached_logits_are_the_uncached_ones(name: str) -> None:
    network = network_of(name).eval()
    ids = random_ids(2, LENGTH)
    cache = new_cache(network, 2)
    pieces = (7, 2, *([1] * (LENGTH - 9)))
    parts = [network.logits(x, cache=cache) for x in ids.split(pieces, dim=1)]
    torch.testing.assert_close(
        torch.cat(parts, dim=1), network.logits(ids), atol=1e-4, rtol=1e-4
    )


@pytest.mark.covers("MOD-30")
@ALL
def test_generation_is_that_of_the_uncached_model(name: str) -> None:
    network = network_of(name).eval()
    prompts = [[5], [1, 2, 3, 4, 5, 6], [9, 8, 7]]
    greedy = Sampling(temperature=0.0, top_k=0, top_p=1.0, seed=0)
    decoding = Decoding(network, prompts, greedy, max_new_tokens=6)
    for _ in decoding:
        pass
    for prompt, given in zip(prompts, decoding.new_ids, strict=True):
        ids = list(prompt)
        for _ in range(6):
            ids.append(int(network.logits(torch.tensor([ids]))[0, -1].argmax()))
        assert given == ids[len(prompt) :]


# -- reductions ------------------------------------------------------------------------


def assert_reduces(network: Network, plain: Network) -> None:
    """Loss, logits, and the gradients of what both have."""
    plain.load_state_dict(network.state_dict(), strict=False)
    ids = random_ids(2, 20)
    batch = packed_batch([[10, 8], [24]], LENGTH)
    sums = [cross_entropy(net.train()(batch)[0]) for net in (network, plain)]
    torch.testing.assert_close(*sums)
    for total in sums:
        total.backward()
    shared = dict(network.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(
            shared[name].grad, parameter.grad, atol=1e-4, rtol=1e-4
        )
    network.eval(), plain.eval()
    torch.testing.assert_close(network.logits(ids), plain.logits(ids))


@pytest.mark.parametrize("name", [n for n in TABLE if "mod" in TABLE[n].changes])
def test_every_token_with_weight_one_is_the_model_without_depth(name: str) -> None:
    mod = replace(spec_of(name).mod, capacity=1.0, ladder=(1.0,))
    network = network_of(name, mod=mod)
    with torch.no_grad():
        for n, p in network.named_parameters():
            if "depth.router" in n:
                p.zero_()  # 2 * sigmoid(0)
    assert_reduces(network, network_of(name, seed=7, mod=None))


@pytest.mark.parametrize("name", [n for n in TABLE if "mor" in TABLE[n].changes])
def test_one_recursion_is_the_plain_transformer(name: str) -> None:
    one = network_of(name, mor=replace(spec_of(name).mor, recursions=1))
    plain = network_of(name, seed=7, mor=None)
    assert one.state_dict().keys() == plain.state_dict().keys()
    assert_reduces(one, plain)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"score": "sigmoid"},
        {"dispatch": "capacity", "capacity_factor": 4.0},
        {"top_k": 3, "groups": 2, "top_groups": 2},
    ],
    ids=["softmax", "sigmoid", "capacity", "groups"],
)
def test_identical_experts_are_the_dense_model(changes: dict[str, Any]) -> None:
    """Their weights are renormalised to a sum of one."""
    network = network_of("experts", moe=experts(**changes)["moe"])
    dense = network_of("dense", seed=7, intermediate_size=EXPERTS.intermediate_size)
    dense.load_state_dict(network.state_dict(), strict=False)
    with torch.no_grad():
        blocks = zip(network.backbone.blocks, dense.backbone.blocks, strict=True)
        for routed, plain in ((a.feedforward, b.feedforward) for a, b in blocks):
            for stack, weight in (
                (routed.gate_up, plain.gate_up.weight),
                (routed.down, plain.down.weight),
            ):
                stack.copy_(stack[:1].clone().expand_as(stack))
                weight.copy_(stack[0])
    batch = packed_batch([[10, 8], [24]], LENGTH)
    torch.testing.assert_close(network(batch)[0].loss_sum, dense(batch)[0].loss_sum)
    ids = random_ids(2, 20)
    network.eval(), dense.eval()
    torch.testing.assert_close(network.logits(ids), dense.logits(ids))
