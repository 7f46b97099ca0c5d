"""An optimizer whose states live in host memory or on disk.

Each page has an optimizer of its own, which is of the same class and has the same
options: what an optimizer keeps beside its slots (a count of steps) is equal in all of
them, because every one of them sees every step. So any optimizer can be paged, and
states, weights and checkpoints are those of a run without pages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lumina.optim.declared import Declared
from lumina.optim.optimizer import Optimizer, Slot
from lumina.optim.paging import sizes as pages
from lumina.optim.paging.home import chosen_home
from lumina.optim.paging.page import Page, paged
from lumina.optim.paging.round import Round
from lumina.optim.paging.transport import Transport
from lumina.optim.units import Unit
from lumina.parallel.mesh import RankGroup


class Paged(Optimizer):
    """Pages of slots, which come to the device one after the other.

    Args:
        declared: the optimizer of all of them.
        slots: the parameters it trains.
        options: as of `Optimizer`.
        device: where the step is computed.
        ranks: as of `Optimizer`.
        place: where states live: an entry of `HOMES`.
        folder: for files.
        masters: masters live there as well, where nothing but a step needs them.
    """

    def __init__(
        self,
        declared: Declared,
        slots: list[Slot],
        options: Mapping[str, Any],
        *,
        device: torch.device,
        ranks: RankGroup | None,
        place: str,
        folder: Path,
        masters: bool = False,
    ) -> None:
        super().__init__(slots, options, device=device, ranks=ranks)
        self._again: Callable[[], Paged] = lambda: Paged(
            declared,
            slots,
            options,
            device=device,
            ranks=ranks,
            place=place,
            folder=folder,
            masters=masters,
        )
        home = chosen_home(place)
        sizes = [
            sum(
                state.bytes_for(tuple(slot.parameter.shape), len(slot.matrix_names))
                for state in declared.states.values()
            )
            + 4 * slot.parameter.numel() * masters
            for slot in slots
        ]
        self.pages: list[Page] = []
        for group in paged(slots, sizes, pages.PAGE_BYTES):
            made = declared.cls(group, options, device=device, ranks=ranks)
            pinned = device.type == "cuda"
            self.pages.append(Page(made, home, folder, pinned=pinned, masters=masters))
        self._transport = Transport(device, staged=home.staged)
        self._units = [
            Unit(page.slots, partial(self._step_page, page)) for page in self.pages
        ]
        self._order = [page for page in self.pages if page.size]
        self._round: Round | None = None

    def gather(self) -> Tensor | None:
        """[] float32, 1.0 where gradients of a page's own are not finite."""
        found = [page.optimizer.gather() for page in self.pages]
        broken = [flag for flag in found if flag is not None]
        return torch.stack(broken).amax() if broken else None

    def step(
        self, *, lr: Tensor, weight_decay: float, divisor: Tensor, skip: Tensor
    ) -> None:
        """Update every master, page by page; arguments as of `Optimizer.step`.

        Pages that had their step in the backward pass have no other one.
        """
        for unit in self.units():
            unit.finish(lr=lr, weight_decay=weight_decay, divisor=divisor, skip=skip)
        # The next step will likely visit them in the order of this one.
        if self._round is not None:
            visited = self._round.visited
            self._order = visited + [
                page for page in self._order if page not in visited
            ]
        self._round = None

    def units(self) -> list[Unit]:
        """The pages, each of which can be updated by itself."""
        return self._units

    def _step_page(self, page: Page, **scalars: Any) -> None:
        """One page: bring its states, update, and take them back."""

        def work() -> None:
            for slot in page.slots:
                slot.arrive(self.device)
            page.optimizer.step(**scalars)
            for slot in page.slots:
                slot.depart()

        if not page.size:
            work()
            if self.device.type == "cuda":  # nothing else waits for what departs
                torch.cuda.current_stream(self.device).synchronize()
            return
        if self._round is None:
            self._round = Round(self._transport, self._order)
        self._round.visit(page, work)

    def settle(self) -> None:
        """Wait until every page is at home."""
        for page in self.pages:
            page.come_home()

    def evaluated(self, slot: Slot) -> Tensor:
        """As the page's optimizer computes it, from states on the device."""
        page = next(one for one in self.pages if slot in one.slots)
        page.come_home()
        states, master = slot.state, slot.master
        slot.state = {
            name: value.to(self.device, copy=True) for name, value in states.items()
        }
        slot.master = master.to(self.device)
        try:
            return page.optimizer.evaluated(slot)
        finally:
            slot.state, slot.master = states, master

    def scalars(self) -> dict[str, Tensor]:
        """Those of the first page, which are those of every page."""
        return self.pages[0].optimizer.scalars()

    def load_scalars(self, values: Mapping[str, float]) -> None:
        """The inverse of `scalars`, for every page."""
        for page in self.pages:
            page.optimizer.load_scalars(values)

    def anew(self) -> Optimizer:
        """The same optimizer with its first states."""
        self.settle()
        for slot in self.slots:
            if slot.keeps_master and slot.parameter.dtype != torch.float32:
                slot.master = slot.master.to(self.device, copy=True)
        self.close()
        return self._again()

    def close(self) -> None:
        """Release the pages, their homes and the threads."""
        self._transport.close()
        for page in self.pages:
            page.close()
