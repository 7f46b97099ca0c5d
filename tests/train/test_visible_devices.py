"""The GPUs that a process sees with `--cuda-ids`."""

from __future__ import annotations

import os

import pytest
import torch

from lumina.cli import train as command
from lumina.cli.main import main
from lumina.cli.supervisor import launch
from lumina.errors import LuminaError
from lumina.train.visible_devices import use_cuda_ids


@pytest.fixture(autouse=True)
def unused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setenv("LUMINA_CUDA_IDS", "")


@pytest.mark.parametrize(
    ("before", "ids", "after"),
    [(None, (0, 1), "0,1"), ("3, 5,7", (2, 0), "7,3"), ("3", (), "3")],
)
def test_ids_count_what_was_visible(
    monkeypatch: pytest.MonkeyPatch,
    before: str | None,
    ids: tuple[int, ...],
    after: str,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before or "")
    if before is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    use_cuda_ids(ids)
    use_cuda_ids(ids)  # as the ranks do that were started with these
    assert os.environ["CUDA_VISIBLE_DEVICES"] == after


def test_what_cannot_be_chosen_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with pytest.raises(LuminaError, match="leaves 2 GPUs") as caught:
        use_cuda_ids((2,))
    assert caught.value.code == "E003"
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    with pytest.raises(LuminaError, match="used a GPU already") as caught:
        use_cuda_ids((1,))
    assert caught.value.code == "E003"


@pytest.mark.covers("CFG-17: cuda-ids", "DST-01: --cuda-ids")
def test_two_ids_start_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[int] = []
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(
        launch,
        "launch",
        lambda words, config, choice: found.append(config.system.processes) or 0,
    )
    assert command is not None
    assert main(["train", "--cuda-ids", "0,1", "--train-data", "x.txt"]) == 0
    assert found == [2]
