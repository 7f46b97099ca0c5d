"""Tokens on their way from the device to the host, some steps late."""

from __future__ import annotations

from collections import deque

import torch
from torch import Tensor


class LateTokens:
    """Copies of each step's tokens, which the host waits for only when it takes them.

    The device goes on meanwhile. On a processor the tokens are there at once.
    """

    def __init__(self) -> None:
        self._coming: deque[tuple[Tensor, torch.cuda.Event | None]] = deque()

    def __len__(self) -> int:
        return len(self._coming)

    def put(self, tokens_b: Tensor) -> None:
        """Begin to copy a step's tokens, [B] or [B, n] int64."""
        if tokens_b.device.type != "cuda":
            self._coming.append((tokens_b.clone(), None))
            return
        here = torch.empty(tokens_b.shape, dtype=tokens_b.dtype, pin_memory=True)
        here.copy_(tokens_b, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._coming.append((here, event))

    def take(self) -> list[list[int]]:
        """The tokens of the earliest step, those of each row."""
        tokens, event = self._coming.popleft()
        if event is not None:
            event.synchronize()
        found: list[list[int]] = tokens.view(len(tokens), -1).tolist()
        return found
