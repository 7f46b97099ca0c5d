"""One token for every row: the network, the choice of a token, and back into it.

The chosen token goes into the next step on the device, so the host reads tokens when it
likes. With a cache of fixed shapes the whole step can be recorded as a CUDA graph
(`lumina.infer.decoding.recording`) and is the same function elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from lumina.errors import LuminaError
from lumina.infer.decoding.compiled import blocks_of
from lumina.infer.decoding.program import Program, why_not
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.kv.decoding_cache import DecodingCache
from lumina.infer.kv.static_cache import StaticCache
from lumina.infer.sampling import Sampler, pick
from lumina.model.moe import routed_layers
from lumina.model.network import Network
from lumina.ops.moe import few

KERNELS = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""Attention kernels of decoding: cuDNN would make a plan for every length of the cache,
which takes longer than the step."""


def kernels_of(settings: StepSettings) -> list[SDPBackend]:
    """The attention kernels that a pass may take."""
    return KERNELS if settings.flash else KERNELS[1:]


DRAWN_AT_ONCE = 64
"""Steps whose random numbers go to the device together."""


class Step:
    """The step, with all that it reads and writes in one place each.

    Args:
        network: in evaluation mode while `run` is called.
        cache: holds the rows' prompts.
        sampler: of the rows.
        device: of the network.
        settings: how it is run.

    Attributes:
        kernels: which kernels compute the network: "fused", or "plain" and why.
        columns: that a step adds to the cache, at most.
        apart: rows go through the network one after the other.
        tokens: [B] int64, those of the last step (see `pick`).
    """

    def __init__(
        self,
        network: Network,
        cache: DecodingCache,
        sampler: Sampler,
        rows: int,
        device: torch.device,
        settings: StepSettings | None = None,
    ) -> None:
        self.network, self.cache, self._sampler = network, cache, sampler
        self.device = device
        self.columns = 1
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self._feed = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        self._drawn = torch.zeros(DRAWN_AT_ONCE, rows, device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self._left = 0  # random numbers that no step has used
        self._settings = settings = settings or StepSettings()
        self._program, self.kernels = program_of(network, cache, rows, settings)
        self._invariant = settings.batch_invariant
        self.apart = settings.batch_invariant and self._program is None

    def restart(self, sampler: Sampler) -> None:
        """Other answers, chosen alike, of as many rows."""
        self._sampler, self._left = sampler, 0

    def begin(self, logits_bv: Tensor, prompts: Sequence[Sequence[int]]) -> None:
        """Choose the first token of every row, after the prompts.

        Args:
            logits_bv: [B, V], after each prompt.
            prompts: of the rows.
        """
        self.refill()
        self._choose(logits_bv)

    def refill(self) -> None:
        """Have a random number for the coming step; to be called before each."""
        if self._sampler.sampling.greedy:
            return
        if not self._left:
            self._drawn.copy_(self._sampler.uniforms(DRAWN_AT_ONCE))
            self._place.zero_()
            self._left = DRAWN_AT_ONCE
        self._left -= 1

    def run(self) -> None:
        """The step itself, from the tokens of the last to those of this one."""
        kernels = kernels_of(self._settings)
        blocks = blocks_of(self.network, self._settings)
        with sdpa_kernel(kernels), fixed_shapes(self.network, self.cache), blocks:
            self._choose(self._apart() if self.apart else self._logits(self._feed))

    def _logits(self, feed_b1: Tensor) -> Tensor:
        """Scores [B, V] after the tokens of the step before, which enter the cache."""
        if self._program is not None:
            assert isinstance(self.cache, StaticCache)
            return self._program.logits(feed_b1, self.cache)
        logits = self.network.logits(feed_b1, cache=self.cache, last_only=True)
        return logits[:, 0]

    def _apart(self) -> Tensor:
        """The same, one row after the other: as if each were alone."""
        assert isinstance(self.cache, StaticCache)
        found = []
        for row in range(len(self._feed)):
            with self.cache.only(row):
                found.append(self._logits(self._feed[row : row + 1]))
        return torch.cat(found)

    def keep(self, rows: list[int]) -> None:
        """Go on with these rows only (indices into the present ones)."""
        index = torch.tensor(rows, device=self.device)
        self._sampler.keep(rows)
        self.cache.keep_rows(index)
        self.tokens = self.tokens.index_select(0, index)
        self._feed = self._feed.index_select(0, index)
        self._drawn = self._drawn.index_select(1, index)

    def _choose(self, logits_bv: Tensor) -> None:
        sampling, uniform_b = self._sampler.sampling, None
        if not sampling.greedy:
            uniform_b = self._drawn.index_select(0, self._place)[0]
            self._place += 1
        if self._invariant:  # how a row is sorted may depend on how many there are
            drawn = [None] * len(logits_bv) if uniform_b is None else uniform_b.split(1)
            pairs = zip(logits_bv.split(1), drawn, strict=True)
            picked = torch.cat([pick(row, sampling, draw) for row, draw in pairs])
        else:
            picked = pick(logits_bv, sampling, uniform_b)
        self.tokens.copy_(picked)
        self._feed.copy_(self.tokens.clamp(min=0)[:, None])


def program_of(
    network: Network, cache: Any, rows: int, settings: StepSettings
) -> tuple[Program | None, str]:
    """The program in few kernels, or None; and which kernels that means."""
    if settings.kernels == "plain":
        return None, "plain"
    why = "they read a token of each row" if settings.speculate else ""
    if why := why or why_not(network, cache, rows):
        if settings.kernels == "fused":
            raise LuminaError(
                "E002",
                f"the fused kernels of a step do not take the model: {why}",
                "leave --step-kernels fused out",
            )
        on_cuda = next(network.parameters()).device.type == "cuda"
        return None, f"plain ({why})" if on_cuda else "plain"
    return Program(network, rows, alone=settings.batch_invariant), "fused"


@contextmanager
def fixed_shapes(network: Network, cache: Any) -> Iterator[None]:
    """No shape in a pass over this cache depends on what tensors hold.

    Nothing is changed for caches whose own shapes follow the rows.
    """
    if not hasattr(cache, "fixed_shapes"):
        yield
        return
    layers = list(routed_layers(network))
    before = [layer.experts for layer in layers]
    cache.fixed_shapes = True
    for layer in layers:
        layer.experts = few.routed_experts
    try:
        yield
    finally:
        cache.fixed_shapes = False
        for layer, experts in zip(layers, before, strict=True):
            layer.experts = experts
