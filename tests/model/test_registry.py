"""Registering parts: what is refused, and with which words."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import lumina
from lumina.batch import Batch
from lumina.config import Config
from lumina.errors import LuminaError
from lumina.model.build import build_network
from lumina.model.declared import tensor_info
from lumina.model.layers import Embedding, FeedForward, Linear, RMSNorm
from lumina.model.registry import load_plugins
from lumina.model.spec import ModelSpec, PartsSpec
from lumina.plan.model_options import model_leaves
from lumina.plan.shape import resolve_spec

OWN = str(Path(__file__).parents[1] / "own_parts.py")
load_plugins([OWN])


def refused(**leaves: object) -> LuminaError:
    start: dict[str, object] = {"vocab_size": 320, "hidden_size": 32, "num_layers": 3}
    with pytest.raises(LuminaError) as caught:
        resolve_spec(Config(**(start | leaves)))
    assert caught.value.hint
    return caught.value


def spec_of(**leaves: object) -> ModelSpec:
    start: dict[str, object] = {"vocab_size": 320, "hidden_size": 32, "num_layers": 3}
    return resolve_spec(Config(**(start | leaves)))


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    error = refused(feedforward_type=("relu_sqared",))
    assert error.code == "E005" and "relu_sqared" in error.message
    assert "did you mean 'relu_squared'" in error.hint
    assert "@lumina.register_feedforward('relu_sqared')" in error.hint
    assert "--plugins" in error.hint
    assert "--objective" in refused(attention_type=("focal",)).hint


@pytest.mark.parametrize(
    ("leaves", "code", "told"),
    [
        ({"backbone": "running_mean", "use_moe": True}, "E002", "use_moe"),
        ({"backbone": "running_mean", "block_type": ("parallel",)}, "E002", "block"),
        ({"block_type": ("parallel",), "feedforward_type": ("relu_squared",)},
         "E002", "own business"),
        ({"feedforward_type": ("relu_squared",), "use_mod": True}, "E002", "use_mod"),
        ({"objective": "focal", "use_mor": True}, "E002", "use_mor"),
        ({"block_type": ("parallel",) * 4}, "E002", "4 layers of 3"),
        ({"part_options": ("focal.gamma",)}, "E005", "focal.gamma"),
        ({"part_options": ("focal.gamma=1",)}, "E005", "no part of this model"),
        ({"objective": "focal", "part_options": ("focal.gama=1",)}, "E005", "gama"),
        ({"objective": "focal", "part_options": ("focal.gamma=1.0",) * 2},
         "E002", "twice"),
        ({"objective": "focal", "part_options": ("focal.gamma=x",)}, "E005", "2.0"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(
    leaves: dict[str, object], code: str, told: str
) -> None:
    error = refused(**leaves)
    assert error.code == code and told in str(error)


def test_a_part_refuses_its_own_options() -> None:
    spec = spec_of(
        feedforward_type=("relu_squared",), part_options=("relu_squared.width=0",)
    )
    with pytest.raises(LuminaError, match="width is 0: at least 1") as caught:
        build_network(spec, device="meta")
    assert caught.value.code == "E005"


def test_the_pattern_of_layers_repeats_and_comes_back_as_options() -> None:
    spec = spec_of(
        feedforward_type=("relu_squared", "standard"), objective="focal",
        part_options=("focal.gamma=3", "relu_squared.width=80"),
    )  # fmt: skip
    assert spec.parts is not None
    assert spec.parts.feedforward == ("relu_squared", "", "relu_squared")
    assert spec.options_of("focal") == {"gamma": 3.0}
    assert ModelSpec.from_dict(spec.to_dict()) == spec
    leaves = model_leaves(spec)
    assert leaves["feedforward_type"] == ("relu_squared", "standard")
    again = spec_of(
        **{leaf: leaves[leaf] for leaf in ("feedforward_type", "objective",
                                           "part_options")}
    )  # fmt: skip
    assert again.parts == spec.parts
    assert spec_of(attention_type=("standard",)).parts is None


def test_a_model_whose_part_is_not_there_names_the_plug_in() -> None:
    name = f"gone_{uuid.uuid4().hex}"
    parts = PartsSpec(attention=(name,) * 3, plugins=("mine.py", "more"))
    spec = ModelSpec.from_dict(spec_of().to_dict() | {"parts": vars(parts)})
    with pytest.raises(LuminaError) as caught:
        build_network(spec, device="meta")
    assert caught.value.code == "E002" and name in caught.value.message
    assert "--plugins mine.py more" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "code", "told"),
    [
        (None, "E104", "no plug-in"),
        ("import lumina\n1 / 0\n", "E005", "ZeroDivisionError"),
        ("import nothing_called_this\n", "E005", "nothing_called_this"),
        ("import lumina\nlumina.register_block('no name')(int)\n", "E005", "no name"),
        ("import lumina\nlumina.register_block('standard')(int)\n", "E005", "standard"),
        ("import lumina\nlumina.register_block('focal')(int)\n", "E005", "already"),
        ("import lumina\nlumina.register_block('b', reports={'x': 1})(int)\n",
         "E005", "begin with 'b.'"),
        ("import lumina\nlumina.register_block('b', reports={'b.x': 'y'})(int)\n",
         "E005", "'y'"),
    ],
)  # fmt: skip
def test_a_plug_in_that_cannot_be_loaded(
    tmp_path: Path, text: str | None, code: str, told: str
) -> None:
    file = tmp_path / "mine.py"
    if text is not None:
        file.write_text(text)
    with pytest.raises(LuminaError) as caught:
        load_plugins([str(file)])
    assert caught.value.code == code and told in str(caught.value)


def test_a_module_that_is_not_there() -> None:
    with pytest.raises(LuminaError, match="no module no_such_thing") as caught:
        load_plugins(["no_such_thing.parts"])
    assert caught.value.code == "E104"


def test_roles_and_first_values() -> None:
    """Fused names mean nothing inside a registered part; hooks say what starts how."""
    network = build_network(spec_of(block_type=("standard", "parallel")), seed=3)
    info = tensor_info(network.spec)
    assert info["backbone.blocks.1.inner.attention.qkv.weight"].role == "matrix"
    assert info["backbone.blocks.1.inner.norm.weight"].role == "norm"
    assert info["backbone.blocks.1.inner.floor"].role == "buffer"
    assert info["backbone.blocks.0.attention.q.weight"].axes == ("query", "hidden")
    assert info["objective.head.weight"].role == "head"
    inner = network.backbone.blocks[1].inner
    assert inner.gate.tolist() == [0.5, 0.5] and inner.floor.item() == 0.25
    assert bool((inner.norm.weight == 1).all())
    other = spec_of(feedforward_type=("relu_squared",))
    info = tensor_info(other)
    assert info["backbone.blocks.0.feedforward.up.weight"].axes == ("ffn", "hidden")


def test_a_buffer_needs_a_value_and_a_report_must_come() -> None:
    first, second = (f"part_{uuid.uuid4().hex}" for _ in range(2))

    @lumina.register_feedforward(first)
    class Buffered(FeedForward):
        def __init__(self, spec: ModelSpec, layer_index: int) -> None:
            super().__init__(spec)
            self.register_buffer("table", torch.ones(2))

    with pytest.raises(LuminaError, match="the buffer table"):
        build_network(spec_of(feedforward_type=(first,)))

    @lumina.register_feedforward(second, reports={f"{second}.x": 0.0})
    class Silent(nn.Module):
        def __init__(self, spec: ModelSpec, layer_index: int) -> None:
            super().__init__()

        def forward(self, x: torch.Tensor, context: object) -> torch.Tensor:
            return x

    network = build_network(spec_of(feedforward_type=(second,)))
    with pytest.raises(LuminaError, match="does not return it"):
        network.logits(torch.zeros(1, 4, dtype=torch.long))


class _Wrong(nn.Module):
    """A part with one mistake; `fault` names it."""

    fault = ""

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__()
        self.up = Linear(spec.hidden_size, spec.hidden_size)
        if self.fault == "made":
            torch.empty(-4)
        if self.fault == "tensor":
            self.scale = torch.ones(3)

    def forward(self, x: torch.Tensor, context: object) -> object:
        y = self.up(x)
        if self.fault == "shape":
            return y[..., :1]  # would be added to every channel
        if self.fault == "type":
            return y.double()
        return (y, {"unheard.of": y.sum()}) if self.fault == "report" else y


def _wrong(fault: str, register: Callable[..., Any]) -> str:
    name = f"part_{uuid.uuid4().hex}"
    register(name)(type("Wrong", (_Wrong,), {"fault": fault}))
    return name


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("made", "cannot be made: RuntimeError"),
        ("tensor", "keeps the tensor scale"),
        ("shape", "returns the shape"),
        ("report", "'unheard.of' and does not declare it"),
    ],
)
@pytest.mark.parametrize("kind", ["block", "attention", "feedforward"])
def test_a_part_with_a_mistake_is_refused_and_not_half_used(
    kind: str, fault: str, told: str
) -> None:
    name = _wrong(fault, getattr(lumina, f"register_{kind}"))
    spec = spec_of(**{f"{kind}_type": (name, "standard")})
    with pytest.raises(LuminaError, match=told) as caught:
        build_network(spec).logits(torch.zeros(1, 4, dtype=torch.long))
    assert caught.value.code == "E005" and caught.value.hint


def test_a_part_does_not_change_the_type_of_what_follows() -> None:
    name = _wrong("type", lumina.register_attention)
    network = build_network(spec_of(attention_type=(name,)))
    hidden = network.backbone(Batch.from_rows(torch.zeros(1, 4, dtype=torch.long)))
    assert hidden.hidden.dtype == torch.float32


def test_a_backbone_has_what_is_asked_of_it() -> None:
    name = f"part_{uuid.uuid4().hex}"

    @lumina.register_backbone(name)
    class Bare(nn.Module):
        def __init__(self, spec: ModelSpec, attention: str) -> None:
            super().__init__()

    with pytest.raises(LuminaError, match="has no blocks") as caught:
        build_network(spec_of(backbone=name), device="meta")
    assert caught.value.code == "E005"


def test_a_backbone_that_tells_of_no_memory_has_none() -> None:
    name = f"part_{uuid.uuid4().hex}"

    @lumina.register_backbone(name)
    class Plain(nn.Module):
        def __init__(self, spec: ModelSpec, attention: str) -> None:
            super().__init__()
            self.compute_dtype = torch.float32
            self.embedding = Embedding(spec.padded_vocab_size, spec.hidden_size)
            self.blocks = nn.ModuleList()
            self.norm = RMSNorm(spec.hidden_size, spec.norm_eps)

    assert not build_network(spec_of(backbone=name), device="meta").recurrent
    assert build_network(spec_of(backbone="running_mean"), device="meta").recurrent


def test_focal_is_what_it_says() -> None:
    """gamma 0 is cross entropy; otherwise well-known tokens hardly count."""
    ids = torch.randint(0, 320, (2, 9), generator=torch.Generator().manual_seed(1))
    batch = Batch.from_rows(ids[:, :-1], ids[:, 1:])
    plain, _ = build_network(spec_of(), seed=2)(batch)
    for gamma in (0.0, 2.0):
        spec = spec_of(objective="focal", part_options=(f"focal.gamma={gamma}",))
        network = build_network(spec, seed=2)
        losses, _ = network(batch)
        logp = network.logits(ids[:, :-1]).log_softmax(-1)
        p = logp.gather(-1, ids[:, 1:, None]).squeeze(-1)
        wanted = (-p * (1 - p.exp()) ** gamma).sum()
        torch.testing.assert_close(losses.trained_sum, wanted)
        torch.testing.assert_close(losses.loss_sum, plain.loss_sum.detach())
