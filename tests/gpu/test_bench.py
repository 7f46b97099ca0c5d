"""Measurements on a GPU: clocks, memory, Liger beside Lumina, every kernel's error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lumina.cli.main import main

pytestmark = pytest.mark.gpu

SMALL = [
    "--no-use-moe", "--hidden-size", "256", "--intermediate-size", "512",
    "--num-layers", "2", "--num-heads", "4", "--num-kv-heads", "2",
    "--vocab-size", "2048", "--seq-length", "256", "--batch-size", "4",
    "--global-batch-size", "8", "--device", "cuda",
]  # fmt: skip


def test_a_training_is_timed_with_memory_and_clocks(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    words = ["bench", "train", *SMALL, "--precision", "bf16", "--steps", "10"]
    assert main([*words, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    memory = found["memory"]
    assert 2**20 < memory["allocated"] <= memory["reserved"]
    pytest.importorskip("pynvml")
    assert found["gpu"]["clock_mhz"]["median"] > 100


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("peer", ["transformers", "transformers+compile", "liger"])
def test_peers_have_the_same_losses_here(
    peer: str, precision: str, tmp_path: Path
) -> None:
    pytest.importorskip("liger_kernel" if peer == "liger" else "transformers")
    out = tmp_path / "out.json"
    words = ["bench", "train", *SMALL, "--precision", precision, "--steps", "4"]
    words += ["--against", peer, "--blocks", "2", "--out", str(out)]
    assert main(words) == 0
    [one] = json.loads(out.read_text())["peers"]
    assert one["same"]["tokens"] < 1e-4 and one["ratio"]["interval"]
    assert one["losses_apart"] < 0.02


def test_every_kernel_is_as_exact_as_its_type(tmp_path: Path) -> None:
    out = tmp_path / "ops.json"
    words = ["bench", "ops", "--device", "cuda", "--rows", "2", "--length", "512"]
    words += ["--vocabulary", "8192", "--rounds", "3", "--out", str(out)]
    assert main(words) == 0
    for op in json.loads(out.read_text())["ops"]:
        rounded = op["op"] in ("low_bits", "float8")
        for one in op["versions"]:
            if not one["problem"]:
                assert one["error"] < (0.2 if rounded else 0.02), (op["op"], one)
