"""Prompts of a pool read in passes of few shapes, recorded on a GPU.

Launching the kernels of one prompt takes the host longer than the device computes it.
A recorded pass is one launch, over the next power of two of the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from lumina.infer.decoding.compiled import blocks_of
from lumina.infer.decoding.recording import Recordings
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.decoding.step import fixed_shapes, kernels_of
from lumina.infer.kv.paged_seats import PagedSeats
from lumina.infer.kv.pages import Row
from lumina.infer.kv.prompt_piece import PromptPiece
from lumina.model.network import Network


class PromptStep:
    """Reads a piece of a prompt; recorded once for each number of columns and span.

    Args:
        network: in evaluation mode while it runs.
        seats: whose rows are read.
        most: most tokens of a piece.
        device: of the network.
        settings: how it is run.

    Attributes:
        recordings: of the passes.
    """

    def __init__(
        self,
        network: Network,
        seats: PagedSeats,
        most: int,
        device: torch.device,
        settings: StepSettings,
    ) -> None:
        self._network, self._settings = network, settings
        self._cache = PromptPiece(seats.pool, seats.sight, seats.room, most, device)
        # Steps may be recorded where a prompt cannot be.
        graph = "off" if settings.graph == "off" else "auto"
        self.recordings = Recordings(device, replace(settings, graph=graph))
        self._logits_1v = torch.zeros(1, network.spec.vocab_size, device=device)

    def logits(self, row: Row, ids: Sequence[int]) -> Tensor:
        """Scores [1, V] after a piece, which enters the cache; the next call's too.

        Args:
            row: whose tokens they are.
            ids: of the piece.
        """
        cache = self._cache
        cache.begin(row, ids)
        self.recordings.run((cache.columns, cache.span), self._pass)
        return self._logits_1v

    def _pass(self) -> None:
        network, cache = self._network, self._cache
        with (
            sdpa_kernel(kernels_of(self._settings)),
            fixed_shapes(network, cache),
            blocks_of(network, self._settings),
        ):
            given = network.logits(cache.ids, cache=cache, last_only=True)
        self._logits_1v.copy_(given[:, 0])
