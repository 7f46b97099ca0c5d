"""A frozen embedding in host memory: the same losses, gradients and types."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from assemble.test_adapters import ADAPTER, begun, plan_of
from lumina.assemble.assemble import Progress, assemble, capture
from lumina.assemble.source import StateSource
from lumina.errors import LuminaError
from lumina.model import host_table
from lumina.model.host_table import HostTable, device_of
from lumina.model.layers import Embedding
from programs import conversations, stream_of, take_steps, tiny_plan


def untied(plan: Any) -> Any:
    return plan.replace(spec=replace(plan.spec, tie_embeddings=False))


def base() -> StateSource:
    program = assemble(untied(tiny_plan()))
    return StateSource(capture(program, Progress(), everything=True))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_learn_the_same_beside_it(dtype: str, tmp_path: Path) -> None:
    stream, source = stream_of(conversations(tmp_path)), base()
    plan = untied(plan_of(compute_dtype=dtype))
    plain = begun(plan, source)
    host = begun(plan.replace(embedding_in="host"), source)
    tables = [x for x in host.network.modules() if isinstance(x, HostTable)]
    assert len(tables) == 1
    assert tables[0].weight.dtype == getattr(torch, dtype)
    wanted, _ = take_steps(plain, stream, 3)
    found, _ = take_steps(host, stream, 3)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert not torch.equal(wanted[0, 0], wanted[-1, 0])
    weights = dict(plain.network.named_parameters())
    assert weights.keys() == dict(host.network.named_parameters()).keys()
    for name, parameter in host.network.named_parameters():
        torch.testing.assert_close(parameter, weights[name], rtol=0, atol=0)
    table = tables[0].weight.nbytes
    assert plain.held["model"] - host.held["model"] == table


def test_it_takes_types_and_memory_and_no_other_device() -> None:
    plain = Embedding(7, 3)
    with torch.device("meta"):
        table = HostTable(torch.nn.Parameter(torch.empty(7, 3)))
    table.to(torch.bfloat16)
    assert table.weight.is_meta and table.weight.dtype == torch.bfloat16
    table.to_empty(device="cpu")
    assert table.weight.device.type == "cpu" and not table.weight.requires_grad
    torch.nn.init.normal_(plain.weight)
    table.weight.data.copy_(plain.weight.data)
    table.to("meta")
    assert table.weight.device.type == "cpu"
    ids = torch.tensor([[6, 0], [3, 3]])
    torch.testing.assert_close(table(ids), plain.weight.detach().bfloat16()[ids])


def test_a_network_is_where_its_other_parameters_are() -> None:
    network = torch.nn.Sequential(
        HostTable(torch.nn.Parameter(torch.zeros(2, 2))),
        torch.nn.Linear(2, 2, device="meta"),
    )
    assert device_of(network).type == "meta"


def test_an_embedding_that_trains_is_refused() -> None:
    adapter = replace(ADAPTER, also=("backbone.embedding.*",))
    plan = untied(plan_of(adapter=adapter, embedding_in="host"))
    with pytest.raises(LuminaError) as caught:
        begun(plan, base())
    assert caught.value.code == "E002" and "this one trains" in caught.value.message


def test_a_trace_does_not_read_the_tokens() -> None:
    """What stands in for the gathering gives its shape and type."""
    from lumina.train.planned_memory.pretended import _rows_of_table

    table, ids = torch.zeros(9, 5, dtype=torch.bfloat16), torch.zeros(2, 3).long()
    made, real = _rows_of_table(table, ids), host_table.gathered(table, ids)
    assert (made.shape, made.dtype) == (real.shape, real.dtype)
