from __future__ import annotations

import pytest

from lumina.plan.hardware import peak_flops


@pytest.mark.parametrize(
    ("name", "kind", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", "bfloat16", 989e12),
        ("NVIDIA H100 PCIe", "bfloat16", 756e12),
        ("NVIDIA H200", "tf32", 494e12),
        ("NVIDIA H200", "torch.float32", 67e12),
        ("NVIDIA A100-SXM4-80GB", "float16", 312e12),
        ("NVIDIA GeForce RTX 4090", "bfloat16", 165.2e12),
        ("NVIDIA L40S", "bfloat16", 362e12),
        ("NVIDIA L4", "bfloat16", 121e12),
        ("Tesla T4", "float16", 65e12),
        ("Tesla V100-SXM2-16GB", "float16", 125e12),
    ],
)
def test_known_cards(name: str, kind: str, peak: float) -> None:
    assert peak_flops(name, kind) == peak


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Intel(R) Xeon(R) Processor", "float32"),
        ("NVIDIA H300", "bfloat16"),
        ("NVIDIA A1000", "bfloat16"),
        ("Tesla T4", "bfloat16"),
        ("NVIDIA H200", "int4"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "bfloat16"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "bfloat16"),
        ("", "bfloat16"),
    ],
)
def test_what_is_not_known_is_not_guessed(name: str, kind: str) -> None:
    assert peak_flops(name, kind) is None


def test_the_torch_type_works_as_well() -> None:
    import torch

    assert peak_flops("NVIDIA H200", torch.bfloat16) == 989e12
