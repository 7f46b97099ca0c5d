"""Several sources of text that are tokenised while the run trains, in given shares.

How many rows a streamed source has is not known, so each of them begins again where it
ends, and the shares have to be named. The cursor holds the place in every source: a run
goes on with the very next row of each.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from lumina.batch import Batch
from lumina.config.provenance import Source
from lumina.config.source_entries import (
    asked_points,
    in_words,
    source_eval_paths,
    source_paths,
)
from lumina.data.kind import Data, DataKind, Request, Rows, Share
from lumina.data.loading import choose_loading
from lumina.data.mixture.mixture_stream import eval_source_batches
from lumina.data.mixture.sequence import MixedRows
from lumina.data.mixture.shares import ShareSchedule
from lumina.data.order import Cursor, RowId, Taken
from lumina.data.store_folder import cache_key
from lumina.data.stream import Read
from lumina.data.streaming.head import trained_on_head
from lumina.data.streaming.sequence import StreamedRows
from lumina.data.streaming.streamed_data import (
    StreamedBatches,
    StreamedData,
    prepare_streamed,
)
from lumina.data.streaming.text_source import TextSource
from lumina.data.tasks import NAMES_OF_SETS, TaskStores
from lumina.data.text_data import in_turns
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.config.settings import Settings

_SOURCE = 2**40
"""Rows of a source are named from its number times this on."""


class StreamedMixture(MixedRows):
    """A mixture of sources whose rows are read as they come.

    Args:
        parts: the rows of each source, without end.
        schedule: the shares.
    """

    def __init__(
        self, parts: Mapping[str, StreamedRows], schedule: ShareSchedule
    ) -> None:
        super().__init__(parts, schedule)
        self._streams = tuple(parts.values())

    def in_steps_of(self, rows: int) -> StreamedMixture:
        """The same mixture, whose schedule counts steps of this many rows."""
        parts = dict(zip(self.names, self._streams, strict=True))
        return StreamedMixture(parts, ShareSchedule(self.schedule.points, rows))

    @property
    def rows_per_epoch(self) -> None:
        """Not known."""
        return None

    def take(self, cursor: Cursor, count: int) -> Taken:
        """The next `count` rows of the mixture."""
        begin = int(cursor["rows"])
        sources, weights, since = self.turns(cursor, count)
        taken = self.taken_of(cursor, sources)
        waiting = [iter(zip(one.row_ids, one.contents, strict=True)) for one in taken]
        ids: list[RowId] = []
        contents: list[Any] = []
        for source in sources:
            (epoch, row), content = next(waiting[source])
            ids.append((epoch, row + source * _SOURCE))
            contents.append(content)
        parts = [dict(one.cursor) for one in taken]
        facts = {
            f"epoch.{name}": part.epochs_before(place)
            for name, part, place in zip(self.names, self._streams, parts, strict=True)
        }
        return Taken(
            begin=begin,
            row_ids=ids,
            cursor=self.after(cursor, count, parts, weights, since),
            epoch=None,
            contents=contents,
            facts=facts | self.shares_now(weights),
            events=[event for one in taken for event in one.events],
        )


class StreamedMixtureBatches(StreamedBatches):
    """Batches of a streamed mixture; rows stand in the order of their sources.

    Args:
        mixture: the rows.
        seq_length: positions of a row.
        global_batch_size: rows of a step, over all ranks.
        fingerprint: names the data of all sources.
    """

    def __init__(
        self,
        mixture: StreamedMixture,
        *,
        seq_length: int,
        global_batch_size: int,
        fingerprint: str,
    ) -> None:
        self.mixture = mixture.in_steps_of(global_batch_size)
        super().__init__(
            self.mixture,
            seq_length=seq_length,
            global_batch_size=global_batch_size,
            fingerprint=fingerprint,
        )

    def reweighted(self, cursor: Cursor, weights: Mapping[str, float] | None) -> Cursor:
        """The cursor from which the rows come in the shares of these weights."""
        return self.mixture.reweighted(cursor, weights)

    def read(self, taken: Taken, mine: Sequence[slice]) -> Read:
        """Packed rows of the windows that were taken, with the source of each."""
        sources = np.array([row // _SOURCE for _, row in taken.row_ids])
        # Within a micro-batch in the order of the sources; the rows stay its own.
        order = np.arange(len(sources))
        for part in mine:
            within = np.argsort(sources[part], kind="stable")
            order[part] = order[part][within]
        contents = [taken.contents[place] for place in order.tolist()]
        read = super().read(replace(taken, contents=contents), mine)
        marked = [
            replace(batch, source_ids=_ids(sources[order[part]]))
            for part, batch in zip(mine, read.micro_batches, strict=True)
        ]
        return replace(read, micro_batches=marked)


def _ids(sources: NDArray[np.int64]) -> torch.Tensor:
    """[B] int64, the number of the source of each row."""
    return torch.from_numpy(sources.astype(np.int64))


class StreamedMixtureData(Data):
    """Streamed text of several sources.

    Args:
        parts: the settings and the data of each source.
    """

    def __init__(self, parts: dict[str, tuple[Config, StreamedData]]) -> None:
        self.parts = parts
        made = [data for _, data in parts.values()]
        for one in made:
            one.endless = True
        # Where a source has conversations, its tokenizer is the same with markers.
        self.tokenizer: Tokenizer = max(
            (one.tokenizer for one in made),
            key=lambda one: (one.has_chat, one.vocab_size),
        )
        kept = {n: d.evaluation for n, (_, d) in parts.items() if d.evaluation}
        self.evaluation = TaskStores(kept) if kept else None
        sums = ("files", "conversations", "eval_documents", "eval_tokens")
        self.stats = {key: sum(one.stats[key] for one in made) for key in sums} | {
            "loading": ", ".join(
                f"{name} {data.stats['loading']}" for name, (_, data) in parts.items()
            ),
            "vocab_size": self.tokenizer.vocab_size,
        }

    def rows(self, config: Config) -> Rows:
        """Rows of all sources, in the shares that the settings name."""
        length = config.model.seq_length
        made = {
            name: data.rows(one.override(
                {"seq_length": length}, Source("python", f"source {name}")
            ))
            for name, (one, data) in self.parts.items()
        }  # fmt: skip
        points = asked_points(config, tuple(made))
        assert points is not None, "checked when the data was prepared"
        parts = {name: cast(StreamedRows, rows.sequence) for name, rows in made.items()}
        return Rows(
            vocab_size=self.tokenizer.vocab_size,
            sequence=StreamedMixture(parts, ShareSchedule(points)),
            held_out=sum(rows.held_out or 0 for rows in made.values()),
        )

    def stream(
        self,
        config: Config,
        rows: Rows,
        *,
        global_batch_size: int,
        epochs: float | None,
    ) -> StreamedMixtureBatches:
        """Batches whose rows know their source."""
        assert isinstance(rows.sequence, StreamedMixture)
        named = [f"{n}={d.source.fingerprint}" for n, (_, d) in self.parts.items()]
        return StreamedMixtureBatches(
            rows.sequence,
            seq_length=config.model.seq_length,
            global_batch_size=global_batch_size,
            fingerprint=cache_key("streamed mixture", *named),
        )

    @property
    def holds_out(self) -> bool:
        """Whether there are documents to judge."""
        return self.evaluation is not None

    def held_out(self, share: Share) -> Iterator[Batch]:
        """Held-out batches, each of one source."""
        assert self.evaluation is not None
        return eval_source_batches(
            self.evaluation,
            tuple(self.parts),
            share.seq_length,
            share.batch_size,
            share.limit,
            rank=share.rank,
            data_ranks=share.data_ranks,
        )

    def facts(self, config: Config) -> Mapping[str, str]:
        """The size and the share of each source."""
        names = tuple(self.parts)
        text = ", ".join(f"{n} {d.stats['size']}" for n, (_, d) in self.parts.items())
        shares = [
            (f"from step {step:,} on " if step else "") + in_words(names, weights)
            for step, weights in asked_points(config, names) or ()
        ]
        return {"sources": f"{text}; shares {', then '.join(shares)}"}

    def prompts(self, count: int) -> list[list[int]]:
        """Beginnings of held-out documents, of all sources in turn."""
        found = [data.prompts(count) for _, data in self.parts.values()]
        return in_turns(found)[:count]


def _prepare(request: Request) -> StreamedMixtureData:
    config = request.config
    paths, held_out = source_paths(config), source_eval_paths(config)
    if asked_points(config, tuple(paths)) is None:
        raise LuminaError(
            "E002",
            "some of the sources are streamed, so that nothing says how many rows they "
            "have, and the shares are to follow from their sizes",
            "name the shares with --source-weights, or use --data-loading sharded",
        )
    configs = {name: _of_source(config, name, paths, held_out) for name in paths}
    tokenizer = request.tokenizer
    if tokenizer is None and config.data.tokenizer is not None:
        tokenizer = Tokenizer.from_path(config.data.tokenizer)
    if tokenizer is None:
        first = next(iter(configs.values()))
        whole = first.override(
            {"train_data": tuple(p for one in paths.values() for p in one)},
            Source("python", "all sources"),
        )
        tokenizer = trained_on_head(whole, TextSource(whole))
    return StreamedMixtureData(
        {
            name: (
                one,
                prepare_streamed(replace(request, config=one, tokenizer=tokenizer)),
            )
            for name, one in configs.items()
        }
    )


def _of_source(
    config: Config,
    name: str,
    paths: Mapping[str, tuple[str, ...]],
    held_out: Mapping[str, tuple[str, ...]],
) -> Config:
    """The settings of one source."""
    return config.override(
        {
            "train_data": paths[name],
            "eval_data": held_out.get(name, ()),
            **dict.fromkeys(NAMES_OF_SETS, ()),
            **dict.fromkeys(("training_mode", "interleaving_strategy")),
            "preserve_base_knowledge": False,
            "data_loading": "streaming",
        },
        Source("python", f"source {name}"),
    )


def _applies(settings: Settings) -> bool:
    """Whether any source is to be streamed; then all of them are."""
    try:
        return any(
            choose_loading(settings, paths).way == "streaming"
            for paths in source_paths(settings).values()
        )
    except LuminaError:  # what cannot be found is left to be reported
        return False


KIND = DataKind("streamed_mixture", _prepare, applies=_applies, trains_tokenizer=True)
