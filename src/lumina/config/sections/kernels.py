"""Options of optimisations of kernels, under the names of the design documents."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from lumina.config.sections.section import Section


class KernelsSection(Section):
    """Which optimised kernels are used; nothing named: what is proven on this device.

    `lumina features` says what each is in a run here, and why.
    """

    experimental_fa3: bool | None = Field(
        None,
        description="FlashAttention-3: asked for as by --attention flash3, which gives "
        "way with a warning where it is not available; --no-experimental-fa3: never; "
        "default: on Hopper with its package, for rows that are long enough",
    )
    experimental_cuda_graphs: bool | None = Field(
        None,
        description="capture the step as a CUDA graph and launch it as a whole: "
        "forward, backward and optimizer; default: off, until its gain is measured "
        "here (`lumina features cuda_graphs`)",
    )
    cuda_graphs_warmup: int = Field(
        50,
        ge=2,
        description="ordinary steps before the first one is captured, in which kernels "
        "are compiled and chosen",
    )
    experimental_fp8: bool | None = Field(
        None,
        description="linear layers multiply float8, as --precision mixed_fp8; "
        "--no-experimental-fp8: no precision with float8; default: only where "
        "precision names it",
    )
    fp8_format: Literal["e4m3", "e5m2"] | None = Field(
        None,
        description="with --experimental-fp8, the format of all three products, as "
        "--precision fp8_e4m3 or fp8_e5m2; default: e4m3 forwards, e5m2 for gradients",
    )
    fp8_scaling: Literal["tensor", "rows"] = Field(
        "tensor",
        description="of float8 products: a scale for each matrix; or one for each row, "
        "with the gradients of weights from unrounded values, which is more exact and "
        "keeps 16 bits of what goes into a layer",
    )
    fp8_experts: bool | None = Field(
        None,
        description="dropless routed experts multiply float8 too, with a scale for "
        "each row; default: off; needs a precision with float8",
    )
    triton_kernels: bool | None = Field(
        None,
        description="SwiGLU, RMSNorm and norms of queries and keys by one Triton "
        "kernel each, forwards and backwards; HYDRA_DISABLE_FUSED_SWIGLU_BWD=1, "
        "..._RMS_NORM_BWD=1 and ..._QK_NORM_BWD=1 leave the kernel of a backward out; "
        "default: off, until they are measured to be faster",
    )
    experimental_blackwell_tuning: bool | None = Field(
        None,
        description="tiles for Blackwell in Triton's attention kernel (of --qk-clip "
        "and the largest attention logit): 128 queries, 64 keys, 8 warps, 3 stages; "
        "needs such a GPU; default: off, since it was not measured there",
    )
    triton_block_q: int | None = Field(
        None,
        ge=16,
        le=512,
        description="queries of a tile of that kernel, a power of "
        "two; default: by the width of heads",
    )
    triton_block_kv: int | None = Field(
        None,
        ge=16,
        le=512,
        description=(
            "keys of a tile of that kernel, a power of two; default: by the width of "
            "heads"
        ),
    )
    triton_num_warps: int | None = Field(
        None, ge=1, le=16, description="warps of a block, a power of two; default: 8"
    )
    triton_num_stages: int | None = Field(
        None, ge=1, le=8, description="tiles of keys that are loaded ahead; default: 2"
    )
    cudnn_benchmark: bool | None = Field(
        None,
        description="let cuDNN try its algorithms for every new shape and keep the "
        "fastest; only convolutions ask for it, which parts of your own may have; "
        "default: off",
    )

    @field_validator("triton_block_q", "triton_block_kv", "triton_num_warps")
    @classmethod
    def _power(cls, value: int | None) -> int | None:
        """Refuse what no Triton kernel can be built for."""
        if value is not None and value & (value - 1):
            raise ValueError(f"{value} is no power of two")
        return value
