"""One token for every seat of a batch whose rows come and go.

The step has as many rows as there are seats, whoever sits there: its shapes depend on
the number of seats, on the positions it reads, and on how tokens are drawn, so it is
recorded once for each of these and serves all requests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import sdpa_kernel

from lumina.infer.decoding.compiled import blocks_of
from lumina.infer.decoding.program import FixedCache
from lumina.infer.decoding.recording import Recordings
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.decoding.step import fixed_shapes, kernels_of, program_of
from lumina.infer.kv.paged_seats import PagedSeats
from lumina.infer.kv.sending import send
from lumina.infer.kv.static_cache import SPAN
from lumina.infer.kv.static_seats import StaticSeats
from lumina.infer.sampling import (
    EVERY,
    NOT_FINITE,
    Filters,
    Sampling,
    choose_each,
    largest,
    ranked,
)
from lumina.model.network import Network

Seats = PagedSeats | StaticSeats

GREEDY = -1
"""In place of `Filters.most` where no seat draws its token."""


@dataclass(frozen=True)
class Turn:
    """What the next token of a seat is made with.

    Attributes:
        sampling: how it is chosen.
        uniform: the random number that decides it, in [0, 1); 0 where nothing is drawn.
        forced: the token itself, where it was chosen before; -1: none.
    """

    sampling: Sampling
    uniform: float = 0.0
    forced: int = -1


class SeatStep:
    """The step over all seats, with all that it reads and writes in one place each.

    Args:
        network: in evaluation mode while it runs.
        seats: the cache.
        device: of the network.
        settings: how it is run.

    Attributes:
        recordings: of the step.
        kernels: which kernels compute the network: "fused", or "plain" and why.
        tokens: [seats] int64, those of the last step; see `pick`.
    """

    def __init__(
        self,
        network: Network,
        seats: Seats,
        device: torch.device,
        settings: StepSettings,
    ) -> None:
        self._network, self._seats, self._settings = network, seats, settings
        self._invariant = settings.batch_invariant
        program, self.kernels = program_of(network, seats, seats.most, settings)
        self._programs = {seats.most: program}
        self.apart = self._invariant and program is None
        why = "keys are in the host's memory" if _on_host(seats) else ""
        why = why or ("rows go one by one" if self.apart else "")
        self.recordings = Recordings(device, settings, why)
        rows = seats.most
        self.tokens = torch.zeros(rows, dtype=torch.int64, device=device)
        self._feed = torch.zeros(rows, 1, dtype=torch.int64, device=device)
        # Temperature, top-p and the random number; top-k and a token chosen before.
        self._reals = torch.ones(3, rows, device=device)
        self._wholes = torch.ones(2, rows, dtype=torch.int64, device=device)
        self._told: tuple[object, ...] = ()

    @property
    def path(self) -> str:
        """How steps run, and by which kernels."""
        kernels = "" if self.kernels == "plain" else f", {self.kernels}"
        return self.recordings.path + kernels

    def first(self, seat: int, turn: Turn, logits_1v: Tensor) -> None:
        """Choose the first token of a seat, after its prompt.

        Args:
            seat: whose prompt has been read.
            turn: how.
            logits_1v: [1, V], after the prompt.
        """
        most = self._tell({seat: turn})
        self._choose(slice(seat, seat + 1), most, logits_1v)

    def run(self, turns: Mapping[int, Turn]) -> None:
        """One step of all seats up to the last one named.

        Args:
            turns: of the seats whose token is wanted; what others give is of no use.
        """
        seats, most = self._seats, self._tell(turns)
        lengths = [seats.length_of(seat) + 1 for seat in turns]
        if self.apart:
            self._apart(sorted(turns), most)
        else:
            seats.rows, seats.span = self._rows(turns), self._span(max(lengths))
            key = seats.rows, seats.span, most
            self.recordings.run(key, lambda: self._pass(most))
        seats.count(sorted(turns))

    def _pass(self, most: int) -> None:
        rows = slice(0, self._seats.rows)
        self._choose(rows, most, self._logits(self._feed[rows]))

    def _apart(self, turns: Sequence[int], most: int) -> None:
        """One seat after the other: as if each were alone."""
        for seat in turns:
            rows = slice(seat, seat + 1)
            with self._seats.only(seat):
                logits_1v = self._logits(self._feed[rows])
            self._choose(rows, most, logits_1v)

    def _logits(self, feed_b1: Tensor) -> Tensor:
        """Scores [B, V] after the tokens of the step before, which enter the cache."""
        seats = self._seats
        kernels = kernels_of(self._settings)
        with (
            sdpa_kernel(kernels),
            fixed_shapes(self._network, seats),
            blocks_of(self._network, self._settings),
        ):
            if self._programs[seats.most] is None:
                given = self._network.logits(feed_b1, cache=seats, last_only=True)
                return given[:, 0]
            rows = len(feed_b1)
            if rows not in self._programs:
                found = program_of(self._network, seats, rows, self._settings)
                self._programs[rows] = found[0]
            program = self._programs[rows]
            assert program is not None and isinstance(seats, FixedCache)
            return program.logits(feed_b1, seats)

    def _rows(self, turns: Mapping[int, Turn]) -> int:
        """Seats of the step: as few as a power of two has, but all where it matters."""
        most = self._seats.most
        if self._invariant or isinstance(self._seats, StaticSeats):
            return most
        return min(1 << max(turns).bit_length(), most)

    def _span(self, length: int) -> int:
        """Positions that the step reads."""
        if not self.recordings.records:
            return length
        span = SPAN
        while span < length:
            span *= 2
        return span

    def _tell(self, turns: Mapping[int, Turn]) -> int:
        """Let the device know how tokens are chosen; gives `Filters.most`."""
        drawn = [t.sampling for t in turns.values() if not t.sampling.greedy]
        told = tuple((seat, turns[seat]) for seat in sorted(turns))
        if told != self._told:
            self._told = told
            # Lists, since a number at a time in a tensor takes the host a microsecond.
            temperature, top_p, uniform = ([1.0] * self._seats.most for _ in range(3))
            top_k, forced = ([value] * self._seats.most for value in (EVERY, -1))
            for seat, turn in turns.items():
                how = turn.sampling
                top_k[seat], forced[seat] = 0, turn.forced
                if not how.greedy:
                    temperature[seat], top_p[seat] = how.temperature, how.top_p
                    uniform[seat], top_k[seat] = turn.uniform, how.top_k or EVERY
            send(self._reals, torch.tensor([temperature, top_p, uniform]))
            send(self._wholes, torch.tensor([top_k, forced]))
        if not drawn:
            return GREEDY
        most = [ranked(sampling.top_k) for sampling in drawn]
        return 0 if self._invariant or 0 in most else max(most)

    def _choose(self, rows: slice, most: int, logits_bv: Tensor) -> None:
        """Take a token for each of these seats; a top-k of 0 takes the likeliest."""
        logits_bv = logits_bv.float()
        highest_b, picked_b = largest(logits_bv)
        top_k_b, forced_b = self._wholes[:, rows]
        if most != GREEDY:
            temperature_b, top_p_b, uniform_b = self._reals[:, rows]
            filters = Filters(
                temperature_b[:, None], top_k_b[:, None], top_p_b[:, None], most
            )
            drawn_b = choose_each(logits_bv, filters, uniform_b)
            picked_b = torch.where(top_k_b == 0, picked_b, drawn_b)
        picked_b = torch.where(torch.isfinite(highest_b), picked_b, NOT_FINITE)
        picked_b = torch.where(forced_b < 0, picked_b, forced_b)
        self.tokens[rows].copy_(picked_b)
        self._feed[rows].copy_(picked_b.clamp(min=0)[:, None])


def _on_host(seats: Seats) -> bool:
    return isinstance(seats, PagedSeats) and seats.pool.keeping.on_host
