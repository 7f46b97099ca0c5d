"""Runs Triton's kernels of SwiGLU and norms on the CPU, under its interpreter."""

from __future__ import annotations

import torch

from lumina.ops.norms_together import fused as norms
from lumina.ops.norms_together.operators import _plain_backward
from lumina.ops.swiglu import fused as swiglu
from lumina.ops.swiglu import reference


def near(one: torch.Tensor, two: torch.Tensor) -> None:
    """Within the rounding of the type."""
    allowed = 2e-2 if one.dtype == torch.bfloat16 else 1e-5
    assert one.dtype == two.dtype and one.shape == two.shape
    assert (one.float() - two.float()).norm() <= allowed * two.float().norm()


def main() -> None:
    """Widths that are no powers of two, and more rows than programs."""
    torch.manual_seed(0)
    for dtype in (torch.float32, torch.bfloat16):
        rows = torch.randn(7, 2 * 50, dtype=dtype)
        gradient = torch.randn(7, 50, dtype=dtype)
        near(swiglu.swiglu(rows), reference.swiglu(rows))
        found = swiglu.swiglu_backward(rows, gradient)
        near(found, reference.swiglu_backward(rows, gradient))
        for counts in ((9,), (300, 40)):
            xs = [torch.randn(count, 24, dtype=dtype) for count in counts]
            weights = [torch.randn(24) for _ in counts]
            given = [torch.randn_like(x) for x in xs]
            outs, scales = norms.norms(xs, weights, 1e-5)
            of_xs, of_weights = norms.norms_backward(xs, weights, given, scales)
            for place, x in enumerate(xs):
                scale = (x.float().square().mean(-1) + 1e-5).rsqrt()
                near(scales[place], scale)
                weight = weights[place]
                out = x.float() * scale[:, None] * weight.to(dtype).float()
                near(outs[place], out.to(dtype))
                plain = _plain_backward(x, weight, given[place], scale)
                near(of_xs[place], plain[0])
                near(of_weights[place], plain[1])
    print("all alike")


if __name__ == "__main__":
    main()
