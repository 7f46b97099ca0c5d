"""A frozen embedding in page-locked memory beside a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lumina.model.host_table import ROWS, HostTable, device_of
from tiny_runs import Runs

pytestmark = pytest.mark.gpu


def test_rows_of_a_table_on_the_host_are_those_of_the_table() -> None:
    """In several parts, and again while copies of the first call may be under way."""
    with torch.device("meta"):
        table = HostTable(torch.nn.Parameter(torch.empty(50_000, 64)))
    table.to(torch.bfloat16).to_empty(device="cuda")
    assert table.weight.device.type == "cpu" and table.weight.is_pinned()
    torch.nn.init.normal_(table.weight)
    whole = table.weight.detach().cuda()
    before = torch.cuda.memory_allocated()
    for _ in range(5):
        ids = torch.randint(0, 50_000, (3, ROWS + 17), device="cuda")
        torch.testing.assert_close(table(ids), whole[ids], rtol=0, atol=0)
    assert torch.cuda.memory_allocated() - before < 2**20


def test_a_run_with_it_is_the_run_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LUMINA_CACHE", str(tmp_path / "cache"))
    runs = Runs(tmp_path, monkeypatch)
    shape = {"device": "cuda", "compile": False, "tie_embeddings": False}
    base = runs.train(**shape, steps=1)
    shape |= {"steps": 4, "init_from": str(base.folder), "use_peft": True}
    shape |= {"lora_dropout": 0.0, "load_in_4bit": True}
    found = runs.train(**shape, embedding_in="host")
    wanted = runs.train(**shape)
    assert found.column("loss") == wanted.column("loss")
    assert device_of(torch.nn.Linear(1, 1, device="cuda")).type == "cuda"
