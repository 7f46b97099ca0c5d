from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.host_memory import cgroup_limit, host_memory_bytes
from lumina.plan.environment import Environment, probe
from machines import gpu


@pytest.fixture(scope="module")
def here() -> Environment:
    return probe("cpu")


def test_the_probe_tells_what_torch_and_the_system_say(here: Environment) -> None:
    assert here.device == "cpu"
    assert 0 < here.host_memory_bytes <= psutil.virtual_memory().total
    assert 1 <= here.cores <= (os.cpu_count() or 1)
    assert here.torch_version == torch.__version__
    assert here.cpu_name
    assert all(peak is None for peak in here.peak_flops.values())
    assert here.bf16 is ((here.bf16_speedup or 0) >= 1.3)


def test_several_processes_share_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    found = probe(Config(device="cpu"))
    assert found.local_processes == 4
    assert found.memory_bytes == found.host_memory_bytes // 4


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there_is_refused() -> None:
    with pytest.raises(LuminaError) as caught:
        probe(Config(device="cuda"))
    assert caught.value.code == "E003"
    assert "--device cpu" in caught.value.hint


def test_the_same_machine_without_its_gpu() -> None:
    plain = gpu().on_cpu()
    assert plain.device == "cpu"
    assert plain.memory_bytes == plain.host_memory_bytes
    assert plain.capability is None
    assert set(plain.peak_flops.values()) == {None}


def test_a_version_two_limit_of_any_group_above_holds(tmp_path: Path) -> None:
    inner = tmp_path / "jobs" / "mine"
    inner.mkdir(parents=True)
    (inner / "memory.max").write_text("max\n")
    (tmp_path / "jobs" / "memory.max").write_text(f"{3 * 2**30}\n")
    membership = tmp_path / "cgroup"
    membership.write_text("0::/jobs/mine\n")
    assert cgroup_limit(tmp_path, membership) == 3 * 2**30


def test_a_version_one_limit(tmp_path: Path) -> None:
    (tmp_path / "memory").mkdir()
    limit = tmp_path / "memory" / "memory.limit_in_bytes"
    membership = tmp_path / "cgroup"
    # The host's path is not visible inside a container: its mount root counts.
    membership.write_text("5:cpu:/x\n4:memory:/docker/abc\n0::/\n")
    limit.write_text("9223372036854771712\n")
    assert cgroup_limit(tmp_path, membership) is None
    limit.write_text(str(2**31))
    assert cgroup_limit(tmp_path, membership) == 2**31


def test_no_control_groups_no_limit(tmp_path: Path) -> None:
    assert cgroup_limit(tmp_path, tmp_path / "absent") is None


def test_a_limit_lowers_the_host_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "memory.max").write_text("1073741824")
    (tmp_path / "cgroup").write_text("0::/\n")
    monkeypatch.setattr("lumina.host_memory.CGROUPS", tmp_path)
    monkeypatch.setattr("lumina.host_memory.MEMBERSHIP", tmp_path / "cgroup")
    assert host_memory_bytes() == 2**30


def test_planning_does_not_import_torch() -> None:
    code = (
        "import sys, lumina.plan.make, lumina.plan.explain, lumina.features\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
