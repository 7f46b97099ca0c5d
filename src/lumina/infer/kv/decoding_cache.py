"""What decoding asks of a cache beyond what the model asks of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from lumina.model.cache_protocol import Cache


class DecodingCache(Cache, Protocol):
    """A cache that prompts are read into and whose rows may leave."""

    @property
    def nbytes(self) -> int:
        """Bytes held for keys and values, and for recurrent layers' states."""
        ...

    def read_prompts(
        self, prompts: Sequence[Sequence[int]], columns: int, device: torch.device
    ) -> Iterator[tuple[Tensor, bool]]:
        """What to run through the network so that the cache holds prompts.

        Each piece is run, with this cache, before the next one is asked for.

        Args:
            prompts: of the rows; the cache may hold the first tokens already.
            columns: most tokens of a row at a time.
            device: of the network.

        Yields:
            Token ids [rows, s], and whether their last logits are those of a prompt's
            end; these come in the order of the rows.
        """
        ...

    def rewind(self, length: int) -> bool:
        """Forgets all but the first `length` columns; False where it cannot."""
        ...

    def keep_rows(self, rows: Tensor) -> None:
        """Goes on with these rows only, [R] int64 on the cache's device."""
        ...
