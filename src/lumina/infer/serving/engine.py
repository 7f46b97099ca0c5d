"""The thread that owns the network and answers what others ask."""

from __future__ import annotations

import threading

from lumina.infer.decoding.settings import StepSettings
from lumina.infer.generate import evaluating
from lumina.infer.kv.paged_seats import PagedSeats
from lumina.infer.kv.settings import CacheSettings
from lumina.infer.serving.batch import Batch, told
from lumina.infer.serving.request import Request
from lumina.infer.serving.seating import Limits
from lumina.model.network import Network

__all__ = ["Engine", "Limits"]


class Engine:
    """Answers requests with one network, several at a time.

    Args:
        network: any `Network`.
        limits: how much at once.
        settings: the cache.
        stepping: how steps are run.

    Attributes:
        batch: the requests.

    Raises:
        LuminaError: as of `Batch`.
    """

    def __init__(
        self,
        network: Network,
        limits: Limits,
        settings: CacheSettings,
        stepping: StepSettings | None = None,
    ) -> None:
        self._network, self.limits = network, limits
        self.batch = Batch(network, limits, settings, stepping)
        self._changed = threading.Condition(self.batch.lock)
        self._closed = self._broken = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> dict[str, int]:
        """How many requests run and wait, and blocks in use."""
        batch = self.batch
        found = {"running": len(batch.running), "waiting": len(batch.waiting)}
        if isinstance(batch.seats, PagedSeats):
            pool = batch.seats.pool
            found |= {"blocks_in_use": pool.in_use, "blocks": pool.limit or 0}
        return found

    @property
    def state(self) -> str:
        """ "ok"; "ending", which takes no more requests; "broken", which failed."""
        if self._broken:
            return "broken"
        return "ending" if self._closed else "ok"

    def submit(self, *requests: Request) -> bool:
        """Queue requests, all or none; False where too many would wait, or it ends."""
        with self._changed:
            waiting = len(self.batch.waiting) + len(requests)
            if self._closed or waiting > self.limits.waiting:
                return False
            self.batch.waiting.extend(requests)
            self._changed.notify()
        return True

    def close(self) -> None:
        """Take no more requests, answer those that there are, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _work(self) -> None:
        try:
            self._answer()
        except BaseException as error:
            with self._changed:
                self._closed = self._broken = True
                asked = [*self.batch.running, *self.batch.waiting]
            for request in asked:
                if not request.ended:
                    request.fail(told(error))
            raise

    def _answer(self) -> None:
        with evaluating(self._network):
            while True:
                with self._changed:
                    while not self.batch.busy:
                        if self._closed:
                            return
                        self._changed.wait()
                self.batch.round()
