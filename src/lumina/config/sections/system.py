"""Options of how a run uses the machine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from lumina.config.sections.section import Section, number_as_word
from lumina.quantities import bytes_of


class SystemSection(Section):
    """How the run uses this machine."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="where to run; mps is the GPU of an Apple computer"
    )
    cuda_ids: tuple[int, ...] = Field(
        (),
        description="numbers of the GPUs to use, such as 0,1; more than one starts a "
        "process for each; default: the first, or as many as nproc",
    )
    strict: bool = Field(
        False,
        description="refuse to run where a device, kernel or feature would be replaced "
        "by another because it is not available",
    )
    cap_memory: str | None = Field(
        None,
        description='use no more memory of each GPU than this, such as "8 GB": plans '
        "and the allocator behave as on a card of that size (1 GB is 1 GiB here, and "
        "what CUDA itself takes is outside it)",
    )
    tier: Literal[
        "none", "auto", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11"
    ] = Field(
        "none",
        description="length of the rows by a tier of contexts, from 1 (4,608 tokens) "
        "to 11 (4,718,592), or auto: the highest that fits into memory; shown by "
        "`lumina plan --tiers`",
    )
    adapt_to_memory: bool = Field(
        False,
        description="halve batch_size on GPUs below 16 GiB and double it on those of "
        "80 GB and more, with as many rows in a step as before",
    )
    nproc: int | None = Field(
        None,
        ge=1,
        description="processes to start on this machine (else torchrun); default: 1",
    )
    parallel: str = Field(
        "auto",
        description="how several processes share the work: auto, none, ddp, zero1, "
        "zero2, fsdp2 (which is ZeRO-3), zero (the first of these three with room), "
        "independent, or one that a plug-in registers",
    )
    precision: Literal[
        "auto",
        "fp32",
        "tf32",
        "bf16",
        "fp16",
        "mixed_bf16",
        "mixed_fp16",
        "mixed_fp8",
        "fp8_e4m3",
        "fp8_e5m2",
        "fp64",
    ] = Field(
        "auto",
        description="the types of numbers that the run computes in; what suits each "
        "device is shown by `lumina doctor --capabilities`",
    )
    amp: bool = Field(
        True,
        description="mixed precision; --no-amp computes everything in model_dtype",
    )
    model_dtype: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32",
        description=(
            "the type in which weights are kept and trained; bf16 and fp16 do without "
            "float32 master weights and round updates stochastically"
        ),
    )
    gradient_checkpointing: (
        Literal[
            "none",
            "full",
            "selective",
            "except_attention",
            "sqrt",
            "attention",
            "feedforward",
            "budget",
            "adaptive",
        ]
        | None
    ) = Field(
        None,
        description="which activations are recomputed in the backward pass: none; "
        "selective, all but products and attention; attention or feedforward, all of "
        "this branch of each block; full, all but the input of each "
        "block; except_attention, the same but what attention gave; sqrt, all but the "
        "inputs of about as many blocks as the square root "
        "of their number, with a second recomputation; budget, block by block no more "
        "than memory needs; adaptive, full where the run would take more than 85% of "
        "the memory without recomputation, and selective above 70%; default: none, "
        "selective or full, no more than memory needs",
    )
    compile: bool | None = Field(
        None, description="compile blocks; default: on CUDA with a compiler"
    )
    attention: Literal["auto", "flash3", "flash2", "sdpa", "blockwise", "reference"] = (
        Field(
            "auto",
            description="which kernel computes attention; a flash kernel that is not "
            "available gives way to the next, with a warning; blockwise needs memory "
            "that grows with the length, not its square, for any pattern anywhere",
        )
    )
    loss_chunk_bytes: int | None = Field(
        None,
        ge=2**16,
        description="most bytes of logits held at a time; default: 256 MiB, or 1 GiB "
        "on a GPU with room for it",
    )
    deterministic: bool = Field(
        False, description="bit-identical repeats, at the cost of speed"
    )
    cuda_warm_up: bool = Field(
        True,
        description="on CUDA, load the libraries of matrix products before the first "
        "step, which would otherwise be timed with it",
    )
    num_workers: int | None = Field(
        None,
        ge=0,
        description="threads that tokenise; default: as many as "
        "cores, and 0 where the run is on an Apple GPU",
    )
    features: tuple[str, ...] = Field(
        (), description="features without an option of their own to train with"
    )
    no_features: tuple[str, ...] = Field(
        (), description="features without an option of their own to leave out"
    )

    _tier = field_validator("tier", mode="before")(number_as_word)

    @field_validator("cap_memory")
    @classmethod
    def _size(cls, value: str | None) -> str | None:
        """Refuse what is no size of memory."""
        if value is not None and not bytes_of(value):
            raise ValueError(f"{value!r} is no size of memory, such as 8 GB")
        return value

    @field_validator("cuda_ids", mode="before")
    @classmethod
    def _numbers(cls, values: tuple[object, ...]) -> list[object]:
        """Split text such as 0,1 into its numbers."""
        words = [str(value).split(",") for value in values]
        return [int(word) for parts in words for word in parts if word.strip()]

    @property
    def processes(self) -> int:
        """How many are to be started on this machine."""
        return self.nproc or len(self.cuda_ids) or 1
