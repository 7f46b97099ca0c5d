"""RMSNorm: the fused kernel equals the reference."""

from __future__ import annotations

import pytest
import torch

from lumina.ops.norm import fused, reference


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e3])
def test_fused_norm_equals_the_reference_with_gradients(scale):
    torch.manual_seed(3)
    got, expected = [], []
    for function, into in ((fused.rms_norm, got), (reference.rms_norm, expected)):
        torch.manual_seed(4)
        x = (torch.randn(2, 5, 24) * scale).requires_grad_()
        weight = torch.randn(24, requires_grad=True)
        y = function(x, weight, 1e-5)
        (y * torch.randn_like(y)).sum().backward()
        into += [y, x.grad * scale, weight.grad]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_half_precision_is_normalised_in_float32():
    torch.manual_seed(0)
    x = (torch.randn(64, 256) * 300).half()  # squares overflow float16
    got = fused.rms_norm(x, torch.ones(256), 1e-5)
    expected = reference.rms_norm(x.float(), torch.ones(256), 1e-5)
    torch.testing.assert_close(got.float(), expected, rtol=2e-3, atol=2e-3)
