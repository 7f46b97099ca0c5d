"""Codecs whose `decode_into` is one kernel on CUDA devices."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from lumina.ops.low_bits.codec import Codec
from lumina.ops.triton_there import has_triton


class DecodedAtOnce(Codec):
    """A codec with a kernel in `lumina.ops.low_bits.fused`.

    Attributes:
        kernel: the name of the function there.
    """

    kernel: str

    def decode_into(self, tensors: Mapping[str, Tensor], out: Tensor) -> None:
        """As `Codec.decode_into`."""
        if not (out.is_cuda and has_triton()):
            return super().decode_into(tensors, out)
        # Only here, because Triton is not everywhere.
        from lumina.ops.low_bits import fused

        getattr(fused, self.kernel)(tensors, out)
