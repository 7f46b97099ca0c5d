"""Continuous batching: rows join and leave between two tokens (Orca, Yu et al., 2022).

One thread owns the network. In every round it reads at most one waiting prompt into
blocks of the cache, and then gives one more token to each row that is being answered.
Where the blocks run out, the row that came last gives its own back and is read again
later; the blocks that it filled can often be found again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from lumina.errors import LuminaError
from lumina.infer.decoding.step import KERNELS
from lumina.infer.generate import PREFILL_COLUMNS, evaluating
from lumina.infer.kv.paged_cache import PagedCache
from lumina.infer.kv.pages import Pool, Row
from lumina.infer.kv.settings import CacheSettings, place_of
from lumina.infer.serving.request import Problem, Request
from lumina.memory_shortage import shortage_code
from lumina.model.network import Network


@dataclass(frozen=True)
class Limits:
    """How much is answered at once.

    Attributes:
        rows: requests answered side by side.
        tokens: of prompt and answer together.
        waiting: requests that may wait.
        cache_tokens: for which the cache has room, all rows together.
    """

    rows: int = 32
    tokens: int = 2048
    waiting: int = 256
    cache_tokens: int = 0

    def __post_init__(self) -> None:
        for name in ("rows", "tokens", "waiting"):
            if getattr(self, name) < 1:
                raise LuminaError(
                    "E005", f"{name} is {getattr(self, name)}", "give 1 or more"
                )


class Engine:
    """Answers requests with one network, several at a time.

    Args:
        network: any `Network` that takes a paged cache.
        limits: how much at once.
        settings: the cache; always paged.

    Raises:
        LuminaError: E002 for a model without a paged cache; E005 for a cache that
            cannot hold one row.
    """

    def __init__(
        self, network: Network, limits: Limits, settings: CacheSettings
    ) -> None:
        settings.check(network)
        blocks = settings.blocks(limits.tokens)
        total = limits.rows * blocks
        if limits.cache_tokens:
            total = limits.cache_tokens // settings.block
        if total < blocks:
            raise LuminaError(
                "E005",
                f"a cache of {limits.cache_tokens:,} tokens has no room for one row of "
                f"{limits.tokens:,}",
                f"give {blocks * settings.block:,} or more",
            )
        self._network, self.limits = network, limits
        self.pool = Pool(settings.keeping(), settings.block, total)
        spec = network.spec
        self._cache = PagedCache(self.pool, 0, spec.window_size, spec.beyond_window)
        self._device = place_of(network)
        self._waiting: deque[Request] = deque()
        self._running: list[Request] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> dict[str, int]:
        """How many requests run and wait, and blocks in use."""
        return {
            "running": len(self._running),
            "waiting": len(self._waiting),
            "blocks_in_use": self.pool.in_use,
            "blocks": self.pool.limit or 0,
        }

    def submit(self, request: Request) -> bool:
        """Queue a request; False where too many wait, or the engine is closing."""
        with self._changed:
            if self._closed or len(self._waiting) >= self.limits.waiting:
                return False
            self._waiting.append(request)
            self._changed.notify()
        return True

    def close(self) -> None:
        """Take no more requests, answer those that there are, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        with evaluating(self._network):
            while True:
                with self._changed:
                    while not self._waiting and not self._running:
                        if self._closed:
                            return
                        self._changed.wait()
                self._round()

    @torch.inference_mode()
    def _round(self) -> None:
        """Read one prompt, and give every running row one token."""
        self._drop_gone()
        running = list(self._running)
        if (request := self._admitted()) is not None:
            self._guarded([request], lambda: self._read(request))
        if running := [one for one in running if self._has_room(one)]:
            self._guarded(running, lambda: self._advance(running))
        self._running = [one for one in self._running if not self._finished(one)]

    def _admitted(self) -> Request | None:
        """The next waiting request, with a row, if there is room for it."""
        with self._changed:
            if not self._waiting or len(self._running) >= self.limits.rows:
                return None
            request = self._waiting[0]
            row = Row(self.pool)
            row.begin(request.ids)
            # One block more for each running row, so that it need not leave at once.
            wanted = row.needed(len(request.ids) - row.length) + len(self._running)
            available = self.pool.available
            if self._running and available is not None and wanted > available:
                row.end()
                return None
            self._waiting.popleft()
        request.row = row
        self._running.append(request)
        return request

    def _read(self, request: Request) -> None:
        """Run a prompt through the network and take the first token."""
        row = request.row
        assert row is not None
        ids = torch.tensor([request.ids[row.length :]], device=self._device)
        for chunk in ids.split(PREFILL_COLUMNS, dim=1):
            logits = self._logits([request], chunk)
        row.settle()
        _draw(request, logits)

    def _advance(self, requests: list[Request]) -> None:
        """One more token for each request."""
        feed = torch.tensor([[one.ids[-1]] for one in requests], device=self._device)
        logits = self._logits(requests, feed)
        for number, request in enumerate(requests):
            _draw(request, logits[number : number + 1])

    def _logits(self, requests: list[Request], ids: Tensor) -> Tensor:
        self._cache.active = [one.row for one in requests if one.row is not None]
        with sdpa_kernel(KERNELS):
            logits = self._network.logits(ids, cache=self._cache, last_only=True)
        return logits[:, 0]

    def _has_room(self, request: Request) -> bool:
        """Whether a running row has its next block; the newest rows leave for it."""
        while request.row is not None and not request.ended:
            available = self.pool.available
            if available is None or request.row.needed(1) <= available:
                request.row.reserve(1)
                return True
            self._put_back(self._running[-1])
        return False

    def _put_back(self, request: Request) -> None:
        """Give a row's blocks back; it is read again when there is room."""
        assert request.row is not None
        request.row.end()
        request.row = None
        self._running.remove(request)
        with self._changed:
            self._waiting.appendleft(request)

    def _guarded(self, requests: list[Request], work: Callable[[], None]) -> None:
        """Do the work; where it fails, these requests are told, and others go on."""
        try:
            work()
        except Exception as error:  # the server lives on, whatever one request does
            for request in requests:
                if request.row is not None:
                    request.row.end(whole=False)
                    request.row = None
                request.fail(_told(error))

    def _drop_gone(self) -> None:
        """Stop the work on answers that nobody waits for."""
        for request in self._running:
            request.ended = request.ended or request.gone.is_set()
        self._running = [one for one in self._running if not self._finished(one)]
        with self._changed:
            kept = [one for one in self._waiting if not one.gone.is_set()]
            self._waiting = deque(kept)

    def _finished(self, request: Request) -> bool:
        """Whether a request has ended; its blocks are given back then."""
        if request.ended and request.row is not None:
            request.row.end()
            request.row = None
        return request.ended


def _draw(request: Request, logits: Tensor) -> None:
    """Take one token of a request; an output that is no number ends it alone."""
    try:
        [token] = request.sampler.draw(logits)
    except LuminaError as error:
        request.fail(_told(error))
    else:
        request.take(token)


def _told(error: Exception) -> Problem:
    """What a client learns of a failure."""
    if code := shortage_code(error):
        return Problem(503, f"{code}: memory ran out; ask again later, or for less")
    if isinstance(error, LuminaError):
        return Problem(500, f"{error.code}: {error.message}")
    return Problem(500, f"the model failed: {type(error).__name__}: {error}")
