"""ZeRO-1: whole weights on every rank, each of which keeps the states of some rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lumina.parallel.table import register_parallel
from lumina.parallel.way import IN_FLIGHT, Conditions, Exchanged, Way

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lumina.parallel.exchange import Exchange


@register_parallel("zero1")
class DividedStates(Way):
    """Every rank holds the model and trains some rows of each of its tensors.

    Stage 1 of ZeRO (Rajbhandari et al., 2020, arXiv:1910.02054). Float32 masters, where
    the network computes in half precision, and the optimizer's states are divided by
    rows, as FSDP2 divides them. Gradients are summed on the rank that trains their
    rows; while they add up over micro-batches, each rank holds those of its own tokens
    whole. A step sends as much as one of `ddp`.

    `lumina.parallel.exchange` is imported by a run that shares so only: DTensor takes
    seconds to load.
    """

    summary = "every process holds the model, masters and moments are divided"
    stage = 1
    divides_states = True
    masters_apart = True
    forms_messages = True
    _exchange: Exchange | None = None

    @classmethod
    def refuses(cls, conditions: Conditions) -> str | None:
        """Weights without masters, beside what no process can share."""
        if conditions.weights_dtype != "float32":
            return (
                "divides float32 masters over the ranks, and model_dtype "
                f"{conditions.weights_dtype} keeps none"
            )
        return super().refuses(conditions)

    @classmethod
    def communication_bytes(cls, what: Exchanged) -> int:
        """Gradients that are on their way or wait for the rest of their message."""
        message = max(what.messages.reduced, what.root)
        if not what.messages.overlap:  # all wait for the end of the backward pass
            return 4 * (what.trained + min(message, what.trained))
        # One is formed while others are on their way, and the next one fills.
        waiting = (IN_FLIGHT + 2) * message + what.block
        return 4 * min(waiting, what.trained)

    def part(
        self, parameter: nn.Parameter, *, adds_up: bool
    ) -> tuple[nn.Parameter, Tensor]:
        """As of `Way`."""
        if self._exchange is None:
            from lumina.parallel.exchange import Exchange

            self._exchange = Exchange(self.place)
        part = self._exchange.add(parameter, adds_up=adds_up)
        return part.rows, part.gradient

    def sums(self) -> list[Tensor]:
        """Float32 gradients of this rank's tokens, where weights are narrower."""
        parts = self._exchange.parts if self._exchange is not None else []
        return [part.total for part in parts if part.total is not None]

    def settle(self) -> nn.Module:
        """The bare network: what is exchanged is noticed in its backward passes."""
        if self._exchange is not None:
            self._exchange.begin()
        return self.place.network

    @contextmanager
    def sync(self, last: bool) -> Iterator[None]:
        """Gradients go to the ranks that need them in the last backward."""
        exchange = self._exchange
        if exchange is None:
            yield
            return
        exchange.expect(last)
        yield
        exchange.finish()

    def publish(self) -> None:
        """Send the changed rows to every rank."""
        if self._exchange is not None:
            self._exchange.publish()

    def after_failure(self) -> None:
        """Let go what was to be sent."""
        if self._exchange is not None:
            self._exchange.forget()

    def close(self) -> None:
        """Notice nothing more."""
        if self._exchange is not None:
            self._exchange.close()
            self._exchange = None
