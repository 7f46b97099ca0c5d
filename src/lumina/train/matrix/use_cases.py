"""What models are trained for, and the named cell whose settings serve it."""

from __future__ import annotations

from typing import NamedTuple


class UseCase(NamedTuple):
    """A use.

    Attributes:
        name: in a few words.
        flags: the settings, as flags of `lumina train`.
        cell: the named cell that has them.
    """

    name: str
    flags: str
    cell: str


USE_CASES = (
    UseCase(
        "a model that fits: speed",
        "--precision mixed_bf16 --attention flash2",
        "MTX-24",
    ),
    UseCase(
        "a model that nearly fits one device",
        "--precision mixed_bf16 --gradient-checkpointing full",
        "MTX-01",
    ),
    UseCase(
        "the largest model on one device",
        "--precision mixed_bf16 --gradient-checkpointing full --optimizer adamw_8bit",
        "MTX-02",
    ),
    UseCase(
        "long rows on one device",
        "--precision mixed_bf16 --gradient-checkpointing full --use-chunked-training",
        "MTX-20",
    ),
    UseCase(
        "experts on one device",
        "--use-moe --precision mixed_bf16 --gradient-checkpointing full "
        "--optimizer adamw_8bit",
        "MTX-16",
    ),
    UseCase(
        "one more expert on a frozen base",
        "--init-from RUN --expert-id NAME --precision mixed_bf16 "
        "--gradient-checkpointing full --optimizer adamw_8bit",
        "MTX-17",
    ),
    UseCase(
        "several devices, the model fits each",
        "--nproc N --parallel ddp --precision mixed_bf16",
        "MTX-08",
    ),
    UseCase(
        "several devices, the model fits none",
        "--nproc N --parallel fsdp2 --precision mixed_bf16 "
        "--gradient-checkpointing full",
        "MTX-13",
    ),
    UseCase(
        "a very large vocabulary",
        "--precision mixed_bf16 --gradient-checkpointing full --optimizer adamw_8bit",
        "MTX-27",
    ),
    UseCase(
        "data larger than memory, in its order",
        "--data-loading streaming --linear-dataset",
        "MTX-28",
    ),
)
