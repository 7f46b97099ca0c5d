"""Text of several sources as data of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from lumina.batch import Batch
from lumina.config.source_entries import (
    asked_points,
    in_words,
    source_eval_paths,
    source_paths,
    watched_sources,
)
from lumina.data.kind import DataKind, Request, Rows, Share
from lumina.data.mixture.mixture_stream import MixtureStream, eval_source_batches
from lumina.data.mixture.row_orders import row_order
from lumina.data.mixture.sequence import Mixture, shares_by_size
from lumina.data.mixture.shares import ShareSchedule
from lumina.data.named_data import NamedData
from lumina.data.tasks import prepare_named
from lumina.data.text_data import beginning, in_turns
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config


class MixtureData(NamedData):
    """A set of text for each source, and one vocabulary.

    Args:
        prepared: the sources' token stores.
    """

    def rows(self, config: Config) -> Rows:
        """Rows of all sources, in the shares that the settings say."""
        made, length = self.prepared, config.model.seq_length
        parts = {
            name: row_order(config, store, length, self.measures)
            for name, store in made.train.stores.items()
        }
        watched = watched_sources(config)
        for name, part in parts.items():
            if not part.rows_per_epoch and name not in watched:
                raise LuminaError(
                    "E105", f"the source {name} has no token to learn", "add data"
                )
        sizes = [part.rows_per_epoch for part in parts.values()]
        return Rows(
            vocab_size=made.tokenizer.vocab_size,
            sequence=Mixture(parts, share_schedule(config, tuple(parts), sizes)),
            held_out=self.held_out_rows(length),
        )

    def stream(
        self,
        config: Config,
        rows: Rows,
        *,
        global_batch_size: int,
        epochs: float | None,
    ) -> MixtureStream:
        """Batches whose rows know their source."""
        assert isinstance(rows.sequence, Mixture)
        return MixtureStream(
            self.prepared.train,
            rows.sequence,
            seq_length=config.model.seq_length,
            global_batch_size=global_batch_size,
            epochs=epochs,
        )

    def held_out(self, share: Share) -> Iterator[Batch]:
        """Held-out batches, each of one source."""
        assert self.prepared.eval is not None
        return eval_source_batches(
            self.prepared.eval,
            tuple(self.prepared.train.stores),
            share.seq_length,
            share.batch_size,
            share.limit,
            rank=share.rank,
            data_ranks=share.data_ranks,
        )

    def facts(self, config: Config) -> Mapping[str, str]:
        """The rows and the share of each source, and how the shares change."""
        mixture = self.rows(config).sequence
        assert isinstance(mixture, Mixture)
        names = mixture.names
        rows = zip(names, mixture.sizes, strict=True)
        text = ", ".join(f"{name} {size:,} rows" for name, size in rows)
        shares = [
            (f"from step {step:,} on " if step else "") + in_words(names, weights)
            for step, weights in mixture.schedule.points
        ]
        return {"sources": f"{text}; shares {', then '.join(shares)}"}

    def prompts(self, count: int) -> list[list[int]]:
        """Beginnings of held-out documents, of all sources in turn."""
        made = self.prepared
        stores = (made.eval or made.train).stores.values()
        found = [
            [beginning(store, index) for index in range(min(count, len(store)))]
            for store in stores
        ]
        return in_turns(found)[:count]


def share_schedule(
    config: Config, names: tuple[str, ...], sizes: list[int]
) -> ShareSchedule:
    """The shares of the sources over the steps of a run.

    Args:
        config: says them, or how they follow from the sizes.
        names: the sources.
        sizes: rows of each.
    """
    points = asked_points(config, names)
    if points is None:
        temperature = config.mixture.source_temperature or 1.0
        points = ((0, shares_by_size(sizes, temperature)),)
    return ShareSchedule(points)


def _prepare(request: Request) -> MixtureData:
    config = request.config
    return MixtureData(
        prepare_named(
            config,
            source_paths(config),
            source_eval_paths(config),
            "source",
            tokenizer=request.tokenizer,
            on_progress=request.on_progress,
            on_event=request.on_event,
        )
    )


KIND = DataKind(
    "mixture",
    _prepare,
    applies=lambda settings: bool(source_paths(settings)),
    trains_tokenizer=True,
)
