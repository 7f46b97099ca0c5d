"""The declarations of tensors stand against the networks that are built."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lumina.assemble.logical import split_fused
from lumina.errors import LuminaError
from lumina.model.attention import Attention
from lumina.model.build import build_network
from lumina.model.declared import declared, fused_pieces, logical_shapes, tensor_info
from lumina.model.initial import initial_value
from lumina.model.kinds import table
from lumina.model.kinds.kind import Kind
from lumina.model.spec import HrmSpec, ModelSpec, MoeSpec, TaskSpec
from lumina.model.tensors import ROLES, ZEROS, Declared
from lumina.plan.count import count_parameters
from model.test_every_architecture import TABLE, spec_of
from networks import tiny_spec

LATENT = {"mla_kv_rank": 20, "mla_rope_dim": 2, "mla_value_dim": 4, "num_kv_heads": 4}
SPECS = {name: spec_of(name) for name in TABLE} | {
    "puzzles": tiny_spec(
        num_kv_heads=4, hrm=HrmSpec(h_layers=1, l_layers=1, num_puzzles=7)
    ),
    "tied": tiny_spec(tie_embeddings=True, num_kv_heads=1),
    "tasks": tiny_spec(tasks=TaskSpec(("a", "b"))),
    "latent queries": tiny_spec(mla_q_rank=12, **LATENT),
    "biases": tiny_spec(attention_bias=True),
    "learned positions": tiny_spec(pos_encodings="learned", use_stable_embedding=True),
    **{f"norms {norm}": tiny_spec(qk_norm=norm) for norm in ("rms", "rms_full", "l2")},
}
ALL = pytest.mark.parametrize("name", SPECS)


@ALL
def test_every_tensor_is_declared_and_every_declaration_is_built(name: str) -> None:
    spec = SPECS[name]
    network = build_network(spec, device="meta")
    held = declared(spec)
    parameters = {n: tuple(p.shape) for n, p in network.named_parameters()}
    buffers = {n: tuple(b.shape) for n, b in network.named_buffers()}
    saved = set(network.state_dict())
    by_kind = {
        kind: {n: one.shape for n, one in held.items() if one.kind == kind}
        for kind in ("parameter", "buffer", "transient")
    }
    assert by_kind["parameter"] == parameters
    assert by_kind["buffer"] | by_kind["transient"] == buffers
    assert set(by_kind["parameter"] | by_kind["buffer"]) == saved
    assert count_parameters(spec).total == sum(p.numel() for p in network.parameters())


@ALL
def test_logical_tensors_have_the_declared_shapes_and_consistent_axes(
    name: str,
) -> None:
    spec = SPECS[name]
    network = build_network(spec, device="meta")
    pieces, found = fused_pieces(spec), {}
    for name, tensor in network.state_dict().items():
        found |= split_fused(name, tensor, pieces)
    info = tensor_info(spec)
    assert {n: tuple(t.shape) for n, t in found.items()} == logical_shapes(spec)
    assert set(info) == set(found)
    lengths: dict[str, int] = {}
    for name, tensor in found.items():
        assert info[name].role in ROLES
        for axis, size in zip(info[name].axes, tensor.shape, strict=True):
            # Dense and expert widths differ, and so do what routers choose among.
            if axis not in ("ffn", "choice", "recursion"):
                assert lengths.setdefault(axis, size) == size, (name, axis)


@ALL
def test_first_values_are_those_of_the_declarations(name: str) -> None:
    spec = SPECS[name]
    network = build_network(spec, seed=5)
    tensors = network.state_dict() | dict(network.named_buffers())
    for one in declared(spec).values():
        value = initial_value(one, 5)
        assert torch.equal(tensors[one.name], value), one.name
        again = initial_value(one, 6)
        drawn = one.first.name not in ("constant", "last") and not one.first.fixed
        assert torch.equal(value, again) != drawn, one.name


class Undeclared(Kind):
    """An attention with a parameter that no declaration names."""

    def applies(self, spec: ModelSpec) -> bool:
        return True

    def attention(self, spec: ModelSpec, layer: int) -> nn.Module:
        module = Attention(spec, layer)
        module.extra = nn.Parameter(torch.empty(3))
        return module


class Unbuilt(Kind):
    """A declaration of a tensor that no module has."""

    def applies(self, spec: ModelSpec) -> bool:
        return True

    def declare(self, spec: ModelSpec, tensors: dict[str, Declared]) -> None:
        name = "backbone.nowhere.weight"
        tensors[name] = Declared(name, (3,), "norm", ("hidden",), ZEROS)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Undeclared(), "blocks.0.attention.extra"), (Unbuilt(), "nowhere.weight")],
)
def test_a_tensor_that_is_not_in_both_is_refused_by_name(
    kind: Kind, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "KINDS", [*table.KINDS, kind])
    with pytest.raises(LuminaError, match=name):
        build_network(tiny_spec(), device="meta")


@pytest.mark.parametrize(
    ("shape", "role", "axes", "says"),
    [
        ((2, 3), "matrix", ("rank",), "axes"),
        ((2,), "something", ("rank",), "roles are"),
    ],
)
def test_a_declaration_that_contradicts_itself_is_refused(
    shape: tuple[int, ...], role: str, axes: tuple[str, ...], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        Declared("a", shape, role, axes, ZEROS)


def test_a_token_uses_its_share_of_experts_and_one_head_of_several() -> None:
    moe = MoeSpec(num_experts=8, top_k=2, intermediate_size=24, layers=(1,))
    spec = tiny_spec(moe=moe, tasks=TaskSpec(("a", "b", "c")))
    counts = count_parameters(spec)
    unused = counts.experts * 6 // 8 + counts.head * 2 // 3
    assert counts.active == counts.total - unused
    assert counts.active_experts == counts.experts // 4
