"""Continuous batching: rows join and leave between two tokens (Orca, Yu et al., 2022).

Rounds follow one another. In each, a bounded number of tokens of waiting prompts are
read, and then every row that is being answered gets one more token in a single recorded
step. On a GPU the host reads tokens some steps late, so the device never waits for it.
Where the blocks of the cache run out, the row that came last gives its own back and is
read again later; the blocks that it filled can often be found again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from lumina.errors import LuminaError
from lumina.infer.decoding.compiled import blocks_of, require
from lumina.infer.decoding.prompt_step import PromptStep
from lumina.infer.decoding.reading import LateTokens
from lumina.infer.decoding.seat_step import Seats, SeatStep, Turn
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.decoding.step import kernels_of
from lumina.infer.generate import AHEAD, PREFILL_COLUMNS
from lumina.infer.kv.paged_seats import PagedSeats
from lumina.infer.kv.settings import CacheSettings, place_of
from lumina.infer.sampling import NOT_FINITE, checked
from lumina.infer.serving.request import RETRY_SECONDS, Problem, Request
from lumina.infer.serving.seating import Limits, seats_for
from lumina.memory_shortage import shortage_code
from lumina.model.network import Network


@dataclass
class Reading:
    """A prompt that is being read.

    Attributes:
        request: whose it is.
        left: pieces of it, tokens of each.
    """

    request: Request
    left: deque[Sequence[int]]


Begun = list[tuple[int, Request, int]]
"""Tokens on their way: the place among those of a step, whose it is, its number."""


class Batch:
    """The requests that one network answers, several at a time.

    `submit` may be called by any thread, all else by one, in evaluation mode.

    Args:
        network: any `Network`.
        limits: how much at once.
        settings: the cache.
        stepping: how steps are run.

    Attributes:
        running: requests that have a seat, the earliest first.
        lock: held while requests are queued.
        ahead: steps that tokens are read late.
        prompts: what reads prompts, where that is recorded.

    Raises:
        LuminaError: E002 for a model that cannot be answered side by side, and for
            options that do not go with it; E005 for a cache that cannot hold one row.
    """

    def __init__(
        self,
        network: Network,
        limits: Limits,
        settings: CacheSettings,
        stepping: StepSettings | None = None,
    ) -> None:
        self._stepping = stepping = stepping or StepSettings()
        if stepping.compile:
            require(network)
        self._network, self.limits = network, limits
        self._device = place_of(network)
        self._invariant = stepping.batch_invariant
        self._kernels = kernels_of(stepping)
        self.seats: Seats = seats_for(network, limits, settings, self._invariant)
        self.step = SeatStep(network, self.seats, self._device, stepping)
        self.ahead = AHEAD if self.step.recordings.records else 0
        # To the last bit, a prompt is read as `Decoding` reads it, in no other shapes.
        self.prompts: PromptStep | None = None
        if self.ahead and isinstance(self.seats, PagedSeats) and not self._invariant:
            self.prompts = self.prompt_step()
        self.lock = threading.RLock()
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self._reading: Reading | None = None
        self._late = LateTokens()
        self._begun: deque[Begun] = deque()

    def prompt_step(self) -> PromptStep:
        """What reads prompts in passes of few shapes, over seats in blocks."""
        assert isinstance(self.seats, PagedSeats)
        where = self.seats, PREFILL_COLUMNS, self._device
        return PromptStep(self._network, *where, self._stepping)

    @property
    def busy(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.waiting or self.running or self._begun)

    @torch.inference_mode()
    def round(self) -> None:
        """Read of waiting prompts, and give every running row one token."""
        self._drop_gone()
        self._read_prompts()
        turns = self._turns()
        if turns:
            self._guarded(list(turns.values()), lambda: self._advance(turns))
        while len(self._begun) > (self.ahead if turns else 0):
            self._deliver()
        self._let_leave()

    def _read_prompts(self) -> None:
        """Read waiting prompts, one after the other, up to this many tokens in all."""
        room = PREFILL_COLUMNS
        while room > 0:
            reading = self._reading = self._reading or self._admitted()
            if reading is None:
                return
            room -= len(reading.left[0])
            self._guarded([reading.request], partial(self._read, reading))

    def _admitted(self) -> Reading | None:
        """The next waiting request, in a seat, if there is room for it."""
        with self.lock:
            taken = {one.seat for one in self.running}
            free = [seat for seat in range(self.limits.rows) if seat not in taken]
            if not self.waiting or not free:
                return None
            request = self.waiting[0]
            ids = self._known(request)
            # One block more for each running row, so that it need not leave at once.
            there = self.seats.take(free[0], ids, len(self.running))
            if there is None:
                return None
            self.waiting.popleft()
        request.seat, request.begun = free[0], len(ids) - len(request.prompt)
        self.running.append(request)
        size = self.seats.at_once(PREFILL_COLUMNS)
        pieces = (ids[at : at + size] for at in range(there, len(ids), size))
        return Reading(request, deque(pieces))

    def _known(self, request: Request) -> Sequence[int]:
        """What is read of a request before its first step.

        To the last bit, a token that was once decided has the keys that its step gave
        it, not those of a prompt: it goes through the steps again.
        """
        return request.prompt if self._invariant else request.ids

    def _read(self, reading: Reading) -> None:
        """Run a piece of a prompt through the network; after the last, take a token."""
        request, seats = reading.request, self.seats
        assert request.seat is not None
        with seats.reading(request.seat, begun=len(reading.left) == 1) as cache:
            whole = not seats.in_pieces
            while reading.left:
                logits_1v = self._after(reading.left.popleft(), cache)
                if not whole:
                    break
        if reading.left:
            return
        self._reading = None
        self.step.first(request.seat, self._turn(request), logits_1v)
        place = slice(request.seat, request.seat + 1)
        self._note([(0, request)], self.step.tokens[place])

    def _after(self, piece: Sequence[int], cache: Any) -> Tensor:
        """Scores [1, V] after a piece of a prompt, which enters the cache."""
        if self.prompts is not None:
            return self.prompts.logits(cache.active[0], piece)
        ids = torch.tensor([list(piece)], device=self._device)
        blocks = blocks_of(self._network, self._stepping)
        with sdpa_kernel(self._kernels), blocks:
            return self._network.logits(ids, cache=cache, last_only=True)[:, 0]

    def _turns(self) -> dict[int, Request]:
        """The requests that take part in the coming step, each with room for it."""
        for request in list(self.running):
            if self._takes_part(request):
                self._make_room(request)
        return {
            one.seat: one
            for one in self.running
            if one.seat is not None and self._takes_part(one)
        }

    def _takes_part(self, request: Request) -> bool:
        reading = self._reading is not None and self._reading.request is request
        over = request.ended or request.begun >= request.max_new_tokens
        return request.seat is not None and not reading and not over

    def _make_room(self, request: Request) -> None:
        """See that a row has its next block; the newest rows leave for it."""
        while request.seat is not None and not request.ended:
            if self.seats.make_room(request.seat, lambda: request.ids):
                return
            if self._begun:  # a row whose end is on its way makes room, too
                while self._begun:
                    self._deliver()
                self._let_leave()
            else:
                self._put_back(self.running[-1])

    def _put_back(self, request: Request) -> None:
        """Give a row's blocks back; it is read again when there is room."""
        if self._reading is not None and self._reading.request is request:
            self._reading = None
        self._leave(request)
        self.running.remove(request)
        with self.lock:
            self.waiting.appendleft(request)

    def _advance(self, turns: dict[int, Request]) -> None:
        """One more token for each request, by its seat."""
        self.step.run({seat: self._turn(one) for seat, one in turns.items()})
        places = sorted(turns.items())
        self._note(places, self.step.tokens[: places[-1][0] + 1])

    def _turn(self, request: Request) -> Turn:
        """How the next token of a request is chosen."""
        number, ids = request.begun, request.new_ids
        forced = ids[number] if number < len(ids) else -1
        return Turn(request.sampling, request.uniform(number), forced)

    def _note(self, places: list[tuple[int, Request]], tokens: Tensor) -> None:
        """Tokens are on their way to the host."""
        self._late.put(tokens)
        self._begun.append([(place, one, one.begun) for place, one in places])
        for _, request in places:
            request.begun += 1

    def _deliver(self) -> None:
        """Give the earliest tokens that are on their way to their requests."""
        begun = self._begun.popleft()
        self._guarded([one for _, one, _ in begun], lambda: self._give(begun))

    def _give(self, begun: Begun) -> None:
        tokens = self._late.take()
        for place, request, number in begun:
            [token] = tokens[place]
            if request.ended or number < len(request.new_ids):  # chosen before
                continue
            if token == NOT_FINITE:  # the others go on
                self._fail(request, _no_number())
            else:
                request.take(token)

    def _guarded(self, requests: list[Request], work: Callable[[], None]) -> None:
        """Do the work; where it fails, these requests are told, and others go on."""
        try:
            work()
        except Exception as error:  # the server lives on, whatever one request does
            for request in requests:
                if not request.ended:
                    self._fail(request, error)

    def _fail(self, request: Request, error: Exception) -> None:
        if self._reading is not None and self._reading.request is request:
            self._reading = None
        if request.seat is not None:
            self._leave(request, whole=False)
        request.fail(told(error))

    def _drop_gone(self) -> None:
        """Stop the work on answers that nobody waits for."""
        for request in self.running:
            request.ended = request.ended or request.gone.is_set()
        self._let_leave()
        with self.lock:
            kept = [one for one in self.waiting if not one.gone.is_set()]
            self.waiting = deque(kept)

    def _let_leave(self) -> None:
        """Free the seats of requests that have ended."""
        reading = self._reading
        for request in self.running:
            if request.ended and request.seat is not None:
                if reading is not None and reading.request is request:
                    self._reading = None
                self._leave(request)
        self.running = [one for one in self.running if not one.ended]

    def _leave(self, request: Request, whole: bool = True) -> None:
        assert request.seat is not None
        self.seats.leave(request.seat, request.ids, whole)
        request.seat = None


def _no_number() -> Exception:
    try:
        checked([NOT_FINITE])
    except LuminaError as error:
        return error
    raise AssertionError


def told(error: BaseException) -> Problem:
    """What a client learns of a failure."""
    if code := shortage_code(error):
        text = f"{code}: memory ran out; ask again later, or for less"
        return Problem(503, text, retry=RETRY_SECONDS)
    if isinstance(error, LuminaError):
        return Problem(500, f"{error.code}: {error.message}")
    return Problem(500, f"the model failed: {type(error).__name__}: {error}")
