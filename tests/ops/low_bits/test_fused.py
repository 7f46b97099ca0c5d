"""The kernels that make matrices in few bits wide, beside the codecs themselves."""

from __future__ import annotations

import pytest
import torch

from lumina.ops.low_bits.codec import CODECS, found_codec

pytest.importorskip("triton")

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(48, 256), (5, 100), (33, 65), (3, 7, 130)])
@pytest.mark.parametrize("name", CODECS.known())
def test_a_kernel_widens_to_the_bit(
    name: str, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """Also into a part of a larger matrix, whose other rows stay as they are."""
    codec = found_codec(name)
    matrix = torch.randn(*shape, device="cuda")
    matrix[..., 1, :] = 0.0
    packed = codec.pack(matrix)
    whole = torch.full((*shape[:-2], shape[-2] + 4, shape[-1]), 7.0, device="cuda")
    whole = whole.to(dtype)
    part = whole[..., 3 : 3 + shape[-2], :]
    codec.decode_into(packed.tensors, part)
    assert torch.equal(part, codec.unpack(packed, dtype))
    assert (whole[..., :3, :] == 7).all() and (whole[..., -1:, :] == 7).all()
