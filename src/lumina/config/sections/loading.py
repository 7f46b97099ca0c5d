"""Options of how much data is read at a time, in which order, and how often."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from lumina.config.sections.section import Section


class LoadingSection(Section):
    """How data of any size reaches the model."""

    data_loading: Literal["auto", "memory", "sharded", "streaming"] = Field(
        "auto",
        description="memory keeps all tokens in memory; sharded maps them from disk; "
        "streaming tokenises while it trains; default auto: by the size of the files, "
        "under 500 MB, up to streaming_threshold_gb, and above",
    )
    streaming_threshold_gb: float = Field(
        10.0, gt=0, description="larger data is streamed, unless data_loading is named"
    )
    shard_size_mb: int = Field(
        256,
        ge=0,
        description="text that sharded data tokenises at a time: finished shards are "
        "kept, so that another start goes on from there; 0: all of it at once",
    )
    shuffle_buffer: int = Field(
        256,
        ge=1,
        description="rows that streamed text is packed and shuffled among, about; more "
        "are a better shuffle, more memory and a later first step",
    )
    packing: bool = Field(
        True,
        description="several documents in a row, which do not see each other; "
        "--no-packing: each in a row of its own, in batches that are alike in length "
        "and only as wide as they need",
    )
    linear_dataset: bool = Field(
        False, description="documents in the order of the files, never shuffled"
    )
    dataset_start_offset: int = Field(
        0, ge=0, description="documents passed over at the start of a linear run"
    )
    iterate: bool | None = Field(
        None,
        description="begin the data again and again until the last step; "
        "--no-iterate: one pass at most; default: as often as steps or epochs need, "
        "and of streamed data one pass",
    )
    stop_after_epoch: bool = Field(
        False, description="end with a checkpoint when the present epoch is over"
    )
    stop_file: str | None = Field(
        None,
        description="end with a checkpoint after the step in which this file appears",
    )
    prefetch_factor: int = Field(
        2,
        ge=1,
        description="steps whose batches are made ahead of their use",
    )
    prefetch_threads: int | None = Field(
        None,
        ge=0,
        description="threads that make batches ahead (prefetch_factor), in their "
        "order: 2 to 4 where the tokens are on a local disk, 4 to 8 on a network; 0: "
        "each step is made when it is needed; default: 1, or 0 where `lumina pretests "
        "run prefetch` failed",
    )
    pin_memory: bool | None = Field(
        None,
        description="batches in page-locked memory, for faster copies to a GPU; "
        "default: where the run is on a GPU",
    )
