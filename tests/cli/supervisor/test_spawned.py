"""`AIOS_DDP_SPAWN=1` asks for DDP with a process for each GPU."""

from __future__ import annotations

import pytest

from lumina.cli.supervisor.spawned import VARIABLE, spawned
from lumina.config import Config
from lumina.errors import LuminaError


def told(
    config: Config, monkeypatch: pytest.MonkeyPatch, gpus: int = 2, **environment: str
) -> tuple[Config, str]:
    """The settings that come of it, and what is said."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    said: list[str] = []
    return spawned(config, {VARIABLE: "1"} | environment, said.append), "".join(said)


@pytest.mark.covers("DST-01: AIOS_DDP_SPAWN=1")
def test_a_process_for_each_gpu_and_ddp(monkeypatch: pytest.MonkeyPatch) -> None:
    found, said = told(Config(), monkeypatch)
    assert (found.system.nproc, found.system.parallel) == (2, "ddp")
    assert VARIABLE in str(found.provenance["nproc"]) and not said
    for off in ("", "0", "off"):
        assert told(Config(), monkeypatch, **{VARIABLE: off}) == (Config(), "")
    with pytest.raises(LuminaError, match=r"E005.*perhaps"):
        told(Config(), monkeypatch, **{VARIABLE: "perhaps"})


def test_options_and_launchers_win(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = told(Config(nproc=3, parallel="fsdp2"), monkeypatch)
    assert (found.system.nproc, found.system.parallel) == (3, "fsdp2")
    found, _ = told(Config(cuda_ids=[1, 0]), monkeypatch)
    assert (found.system.nproc, found.system.parallel) == (None, "ddp")
    # A rank starts no others, and shares the work as the first process was told.
    found, _ = told(Config(), monkeypatch, WORLD_SIZE="2")
    assert (found.system.nproc, found.system.parallel) == (None, "ddp")


def test_without_a_gpu_one_process_trains_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, said = told(Config(), monkeypatch, gpus=0)
    assert found.system.nproc is None and "there is none here" in said
    with pytest.raises(LuminaError, match="E003"):
        told(Config(strict=True), monkeypatch, gpus=0)
