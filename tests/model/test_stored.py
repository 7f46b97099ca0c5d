"""Networks whose frozen matrices are held in few bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from infer.networks import CAPACITY, MOE, tiny
from lumina.assemble.checkpointing import checkpoint_blocks
from lumina.assemble.logical import split_fused
from lumina.batch import Batch
from lumina.model.adapters.settings import AdapterSpec
from lumina.model.build import build_network
from lumina.model.declared import fused_pieces
from lumina.model.network import Network
from lumina.model.spec import HrmSpec
from lumina.model.stored import storable, store, stored_pieces
from lumina.ops.low_bits.codec import found_codec

REASONER = HrmSpec(
    h_layers=1, l_layers=2, halt_max_steps=3, halt_exploration=0.0,
    mode="language_model",
)  # fmt: skip
ADAPTER = AdapterSpec(rank=4, alpha=8.0, targets=("q_proj", "v_proj", "down_proj"))
IDS = torch.randint(0, 61, (2, 24), generator=torch.Generator().manual_seed(5))


def held(full: Network, codec: str) -> tuple[Network, Network]:
    """The network with its matrices in few bits, and with the same matrices wide.

    Both compute in float64: what they differ by is then no rounding of long sums.
    """
    small = build_network(full.spec, seed=None)
    wide = build_network(full.spec, seed=None)
    for one in (small, wide):
        one.load_state_dict(full.state_dict())
        one.double().backbone.compute_dtype = torch.float64
    pieces = fused_pieces(full.spec)
    chosen = dict.fromkeys(storable(full.spec, small), found_codec(codec))
    with torch.no_grad():
        for name, stored in store(small, chosen).items():
            parts = split_fused(name, full.get_parameter(name), pieces)
            for logical, part in parts.items():
                stored.fill(logical, stored.codec.pack(part))
            wide.get_parameter(name).copy_(stored.wide(torch.float64))
    return small, wide


@pytest.mark.covers("PRC-15: frozen 4-bit base plus adapters")
@pytest.mark.parametrize("codec", ["nf4_double", "int8"])
@pytest.mark.parametrize(
    "changes",
    [
        {"num_kv_heads": 2, "attention_bias": True},
        {"moe": MOE},
        {"moe": CAPACITY},
        {"hrm": REASONER},
    ],
)
def test_adapters_on_few_bits_learn_as_on_the_same_matrices_wide(
    changes: dict[str, Any], codec: str
) -> None:
    full = tiny(**changes)
    adapted = build_network(replace(full.spec, adapters=(ADAPTER,)), seed=3)
    adapted.load_state_dict(full.state_dict(), strict=False)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if ".adapters." in name:
                parameter.normal_(0, 0.1)
    small, wide = held(adapted, codec)
    batch = Batch.from_rows(IDS[:, :-1], IDS[:, 1:])
    gradients = []
    for network in (small.train(), wide.train()):
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(".adapters." in name)
        losses, _ = network(batch)
        losses.loss_sum.backward()
        found = {n: p.grad for n, p in network.named_parameters() if p.requires_grad}
        gradients.append((losses.loss_sum.detach(), found))
    (loss, found), (reference, expected) = gradients
    torch.testing.assert_close(loss, reference)
    assert found.keys() == expected.keys() and len(found) >= 12
    for name, gradient in found.items():
        assert gradient is not None and bool(gradient.any()), name
        # The same sums in another order: some 1e-15 of the length of the gradient.
        apart = torch.linalg.vector_norm(gradient - expected[name])
        assert apart < 1e-12 * torch.linalg.vector_norm(expected[name]), name


def test_few_bits_are_no_parameters_and_take_their_room() -> None:
    full = tiny(moe=MOE)
    small, _ = held(full, "nf4")
    matrices = storable(full.spec, full)
    assert not matrices.keys() & dict(small.named_parameters()).keys()
    assert {n for pieces in matrices.values() for n in pieces} == set(
        stored_pieces(small)
    )
    codec = found_codec("nf4")
    expected = sum(
        codec.bytes_of(shape)
        for pieces in matrices.values()
        for shape in pieces.values()
    )
    assert sum(one.nbytes for one in stored_pieces(small).values()) == expected
    with pytest.raises(ValueError, match="int8"):
        name, packed = next(iter(stored_pieces(small).items()))
        stored = next(m for m in small.modules() if name in getattr(m, "names", ()))
        stored.fill(name, found_codec("int8").pack(packed.unpacked()))


class _Products(TorchDispatchMode):
    """Counts the products with frozen matrices that go forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.counted = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(function)
        mirrored = "low_bit" in name and args[-1]  # the gradient of its input
        forwards = ("lumina.adapted_product.default", "lumina.low_bit_product.default")
        self.counted += name in forwards and not mirrored
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["selective", "full"])
def test_selective_recomputation_keeps_products_with_a_base_in_few_bits(
    kind: str,
) -> None:
    """They are operators of their own; `full` computes each of them once more."""
    full = tiny(num_layers=2)
    adapted = build_network(replace(full.spec, adapters=(ADAPTER,)), seed=3)
    small, _ = held(adapted, "nf4")
    for name, parameter in small.train().named_parameters():
        parameter.requires_grad_(".adapters." in name)
    batch = Batch.from_rows(IDS[:, :-1], IDS[:, 1:])
    losses, _ = small(batch)
    losses.loss_sum.backward()
    expected = {n: p.grad for n, p in small.named_parameters() if p.requires_grad}
    small.zero_grad(set_to_none=True)
    checkpoint_blocks(small.backbone.blocks, kind)
    with _Products() as forward:
        losses, _ = small(batch)
    with _Products() as backward:
        losses.loss_sum.backward()
    assert forward.counted >= 2 * 4
    assert backward.counted == (0 if kind == "selective" else forward.counted)
    for name, parameter in small.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, expected[name])
