"""Options of training on long rows."""

from __future__ import annotations

from pydantic import Field

from lumina.config.sections.section import Section


class LongRowsSection(Section):
    """Rows that are trained in chunks, or by several processes each."""

    context_parallel: int | None = Field(
        None,
        ge=1,
        description="processes that share each row, of which each holds a part and "
        "attends to the keys of the others as these go round; the other processes "
        "have other rows; default: 1, and for rows of more than 262,144 tokens as "
        "many as leave each a part that is no longer, if there are several",
    )
    use_chunked_training: bool = Field(
        False,
        description="take each row chunk by chunk, with the loss and the gradient of "
        "the whole row: what the backward pass needs is kept for one chunk at a time, "
        "and every chunk goes forward once more",
    )
    chunk_size: int | None = Field(
        None,
        ge=1,
        description="tokens of a chunk; default: by the length of a row 4096 (from "
        "4,096 tokens), 2048 (from 32,768), 1024 (from 65,536) or 512 (from 100,000), "
        "and less where memory needs it",
    )
    chunk_offload: bool | None = Field(
        None,
        description="keep the keys and values of the chunks, and their gradients, in "
        "host memory and read them block by block; default: where a GPU has no room "
        "for them",
    )
