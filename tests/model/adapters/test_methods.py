"""Each method of adapting a matrix computes what its dense change would."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from lumina.model.adapters.attach import pieces
from lumina.model.adapters.method import Asked, Method
from lumina.model.adapters.principal import principal
from lumina.model.adapters.settings import AdapterSpec
from lumina.model.adapters.sites import Site
from lumina.model.adapters.table import METHODS, chosen_method
from lumina.model.build import build_network
from lumina.model.initial import initial_value
from lumina.model.spec import MoeSpec
from lumina.model.tensors import Declared
from lumina.ops.low_bits.codec import found_codec
from networks import tiny_spec

ALL = pytest.mark.parametrize("name", METHODS.known())
OPTIONS = {"ratio": 4.0}
OUTPUTS, INPUTS, RANK = 12, 18, 3


def site(*experts: int, piece: str = "q_proj") -> Site:
    """A matrix [12, 18], or one for each expert."""
    axes = (*("expert",) * len(experts), "outputs", "inputs")
    shape = (*experts, OUTPUTS, INPUTS)
    return Site("a", "weight", piece, "a.weight", shape, axes, 0, False, (1, 1))


def values(method: Method, place: Site, seed: int) -> dict[str, torch.Tensor]:
    """First values of a method's tensors."""
    found = {}
    for leaf in method.leaves(place, RANK, OPTIONS):
        role = "adapter" if leaf.kind == "parameter" else "buffer"
        one = Declared(leaf.name, leaf.shape, role, leaf.axes, leaf.first)
        found[leaf.name] = initial_value(one, seed)
    return found


def moved(tensors: dict[str, torch.Tensor], seed: int) -> dict[str, torch.Tensor]:
    """The tensors after some training, in float64."""
    g = torch.Generator().manual_seed(seed)
    return {
        name: (one + 0.3 * torch.randn(one.shape, generator=g)).double()
        for name, one in tensors.items()
    }


@ALL
@pytest.mark.parametrize("experts", [(), (2,)], ids=["matrix", "experts"])
@pytest.mark.parametrize("piece", ["q_proj", "down_proj"])
def test_a_method_changes_nothing_at_first_and_then_what_its_dense_change_says(
    name: str, experts: tuple[int, ...], piece: str
) -> None:
    method, place, seed = chosen_method(name), site(*experts, piece=piece), 5
    scale = method.scale(6.0, RANK)
    g = torch.Generator().manual_seed(seed)
    base = torch.randn(place.shape, generator=g)
    tensors = values(method, place, seed)
    tensors |= method.start(tensors, scale, base, base)
    torch.testing.assert_close(
        base + method.delta(tensors, scale, base), base, rtol=0, atol=1e-5
    )

    x = torch.randn(*experts, 7, INPUTS, generator=g).requires_grad_()
    bias = torch.randn(OUTPUTS, generator=g) if not experts else None
    tensors = {k: v.float().requires_grad_() for k, v in moved(tensors, seed).items()}

    def multiply(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return rows @ weight.to(rows.dtype).mT

    def run(change) -> tuple[torch.Tensor, ...]:
        factors = method.entering(tensors)
        entered = x if factors is None else x * (1 + factors)
        y = multiply(entered, base)
        y = y if bias is None else y + bias
        if factors is None:
            y = y + change(Asked(x, y, tensors, scale, multiply, lambda: base, bias))
        learned = [one for one in tensors.values() if one.requires_grad]
        return y, *torch.autograd.grad(
            y.square().sum(), [x, *learned], allow_unused=True
        )

    found = run(method.change)
    delta = method.delta(tensors, scale, base).detach()
    expected = multiply(x, base + delta)
    # IA3 scales activations, and so their bias, as in PEFT.
    factors = tensors.get("factors", torch.ones(OUTPUTS))
    if bias is not None:
        expected = expected + bias * factors.detach()
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)
    if method.entering(tensors) is not None:
        return
    of_bias = 0.0 if bias is None else (factors - 1) * bias
    reference = run(lambda asked: Method.change(method, asked) + of_bias)
    for one, right in zip(found, reference, strict=True):
        torch.testing.assert_close(one, right, rtol=1e-3, atol=1e-3)


@pytest.mark.covers("MOD-38: IA3", "MOD-38: LoHa", "MOD-38: LoKr")
@ALL
def test_every_method_adapts_a_model_with_experts(name: str) -> None:
    spec = tiny_spec(moe=MoeSpec(2, 1, 24, (1,)), attention_bias=True)
    adapter = AdapterSpec(method=name, rank=4, targets=("full",), options=OPTIONS)
    network, base = (
        build_network(replace(spec, adapters=(adapter,))),
        build_network(spec),
    )
    ids = torch.arange(24)[None]
    with torch.no_grad():
        g = torch.Generator().manual_seed(2)
        for tensor_name, tensor in network.named_parameters():
            if ".adapters." in tensor_name:
                tensor.add_(0.05 * torch.randn(tensor.shape, generator=g))
        for _, piece, layer in pieces(network):
            matrix = base.get_parameter(f"{piece.site.path}.{piece.site.matrix}")
            piece.rows(matrix).add_(piece.delta(layer))
        expected = base(ids).logits
        assert (network(ids).logits - expected).norm() < 2e-5 * expected.norm()


def test_factors_of_methods_are_those_of_their_papers() -> None:
    assert chosen_method("lora").scale(32.0, 16) == 2.0
    assert chosen_method("rslora").scale(32.0, 16) == 8.0
    plus = chosen_method("lora_plus")
    assert [plus.rate(leaf, {"ratio": 16.0}) for leaf in "ab"] == [1.0, 16.0]


def test_pissa_trains_the_principal_part_of_the_base() -> None:
    g = torch.Generator().manual_seed(0)
    base = torch.randn(OUTPUTS, INPUTS, generator=g)
    method = chosen_method("pissa")
    tensors = values(method, site(), 0)
    found = method.start(tensors, 2.0, base, base)
    left, singular, right = torch.linalg.svd(base, full_matrices=False)
    best = left[:, :RANK] * singular[:RANK] @ right[:RANK]
    torch.testing.assert_close(2.0 * found["b"] @ found["a"], best)
    torch.testing.assert_close(found["a"].norm(dim=1), found["b"].norm(dim=0))


def test_loftq_begins_with_the_best_correction_of_four_bits() -> None:
    g = torch.Generator().manual_seed(0)
    base = torch.randn(64, 128, generator=g)
    held = found_codec("nf4").pack(base).unpacked()
    place = replace(site(), shape=(64, 128))
    method = chosen_method("loftq")
    found = method.start(values(method, place, 0), 2.0, base, held)
    left = base - held - method.delta(found, 2.0, None)
    lost = torch.linalg.svdvals(base - held)
    torch.testing.assert_close(left.norm(), lost[RANK:].square().sum().sqrt())


def test_the_principal_part_of_a_large_matrix_is_nearly_the_best() -> None:
    g = torch.Generator().manual_seed(0)
    left, right = torch.randn(1100, 20, generator=g), torch.randn(20, 1030, generator=g)
    noise = torch.randn(1100, 1030, generator=g)
    matrix = left * torch.logspace(1, 0, 20) @ right + noise
    b, a = principal(matrix, 4)
    singular = torch.linalg.svdvals(matrix)
    error = (matrix - b @ a).norm()
    assert error < 1.001 * singular[4:].square().sum().sqrt()


def test_kronecker_factors_are_near_the_root() -> None:
    leaves = {o.name: o.shape for o in chosen_method("lokr").leaves(site(), 1, {})}
    assert leaves == {"w1": (3, 3), "w2_a": (4, 1), "w2_b": (1, 6)}
    whole = {o.name: o.shape for o in chosen_method("lokr").leaves(site(), 3, {})}
    assert whole == {"w1": (3, 3), "w2": (4, 6)}
    assert math.prod(whole["w1"]) * math.prod(whole["w2"]) == OUTPUTS * INPUTS
