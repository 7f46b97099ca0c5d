"""The data of a run: rank 0 prepares it first, and the events about its rows."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lumina.assemble.ranks import Ranks
from lumina.config import Config
from lumina.data.kind import Data, DataKind, Request, Rows
from lumina.data.kinds import options_of
from lumina.data.sources.patient import tell_retries
from lumina.data.stream import RowStream
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.heartbeat import still
from lumina.observe.console import Console
from lumina.train.resume import Resumption
from lumina.train.row_losses import row_losses

Event = dict[str, Any]
"""An event of a run, as keyword arguments."""


class DataPreparation:
    """Lets rank 0 do the work, which the other ranks then find in the cache.

    Args:
        kind: the kind of data.
        ranks: this process's place.
        console: shows the progress.
        on_event: is called with each event, on rank 0.
    """

    def __init__(
        self,
        kind: DataKind,
        ranks: Ranks,
        console: Console,
        on_event: Callable[[Event], None],
    ) -> None:
        self._kind = kind
        self._ranks = ranks
        self._console = console
        self._on_event = on_event

    def prepare(self, config: Config, tokenizer: Tokenizer | None) -> Data:
        """Read the data that the settings name.

        Args:
            config: the settings.
            tokenizer: that of the run that goes on; None: as the settings say.
        """
        tell_retries(self._on_event)
        options = options_of(self._kind, config.data.data_options)
        request = Request(config, tokenizer, options)
        if self._ranks.main:
            data = self._kind.prepare(
                replace(
                    request,
                    on_progress=Progression(self._console),
                    on_event=lambda **event: self._on_event(event),
                )
            )
        self._ranks.barrier()
        return data if self._ranks.main else self._kind.prepare(request)

    def fit(self, data: Data, config: Config) -> Data:
        """The data for rows of the length that was decided."""
        if self._ranks.main:
            data = data.fit(
                config,
                on_progress=Progression(self._console),
                on_event=lambda **event: self._on_event(event),
            )
        self._ranks.barrier()
        data = data if self._ranks.main else data.fit(config)
        on_progress = Progression(self._console) if self._ranks.main else None
        measure = row_losses(config, data.tokenizer, on_progress)
        if measure is not None:
            data.measures = {"loss": measure}
        return data

    def rows(self, data: Data, config: Config) -> Rows:
        """The rows of the data; what has to be scored for their order, rank 0 scores.

        Args:
            data: of `fit`.
            config: the settings.
        """
        rows = data.rows(config) if self._ranks.main else None
        self._ranks.barrier()
        return rows or data.rows(config)


class Progression:
    """Shows how far the preparation of the data is, at most once a second."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._shown = time.monotonic()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Called after every block; amounts are bytes."""
        still()
        now = time.monotonic()
        if now - self._shown >= 1.0 and total:
            self._shown = now
            share = min(done / total, 1.0)
            self._console.message(f"data: {stage} {share:.0%} of {total / 1e6:.1f} MB")


def rows_in_words(stream: RowStream, kind: DataKind, seq_length: int) -> list[Event]:
    """Events about rows that cannot be counted, and rows that teach nothing."""
    events: list[Event] = []
    if stream.order.rows_per_epoch is None:
        events.append(
            {
                "kind": "data_length_unknown",
                "severity": "info",
                "code": None,
                "message": f"data of kind {kind.name} has no known number of rows: the "
                "run ends at its last step, and epochs are not counted",
            }
        )
    # A row of nothing but a long question takes time and teaches nothing.
    count, rows = stream.rows_without_labels
    if count:
        events.append(
            {
                "kind": "data_rows_without_labels",
                "severity": "warning",
                "code": None,
                "message": f"{count:,} of {rows:,} rows have no label: they hold only "
                f"turns without loss, such as questions longer than {seq_length:,} "
                "tokens. Nothing is learned from them, and a step of them has no "
                "loss; use a larger --seq-length, shorter questions, or --loss-on all",
                "count": count,
                "rows": rows,
            }
        )
    return events


def explained(
    error: LuminaError, resumption: Resumption, config: Config
) -> LuminaError:
    """Why a resumed run does not find its data, if it was begun in another folder."""
    if error.code != "E104":
        return error
    data, changes = config.data, resumption.changes
    named = {
        "train_data": data.train_data,
        "eval_data": data.eval_data,
        "tasks": [entry.partition("=")[2] for entry in data.tasks],
        "task_eval_data": [e.partition("=")[2] for e in data.task_eval_data],
        "sources": [e.partition("=")[2] for e in config.mixture.sources],
        "source_eval_data": [
            e.partition("=")[2] for e in config.mixture.source_eval_data
        ],
    }
    for leaf, paths in named.items():
        for path in () if leaf in changes else paths:
            if error.message.startswith(f"{path}: ") and not os.path.isabs(path):
                option = "--" + leaf.replace("_", "-")
                return LuminaError(
                    "E104",
                    f"{resumption.run} was begun with {leaf} {path}, a path relative "
                    "to the folder it was begun in; there is nothing at "
                    f"{os.path.abspath(path)}",
                    "start from the folder that the run was begun in, or say where "
                    f"the data is with {option}",
                )
    return error
