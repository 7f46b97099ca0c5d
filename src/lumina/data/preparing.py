"""The token stores of a run, made ahead of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lumina.cache_root import cache_root
from lumina.data.data_events import OnEvent
from lumina.data.kind import Request
from lumina.data.kinds import chosen_kind, names_data, options_of
from lumina.data.split import Progress
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config


@dataclass(frozen=True)
class Made:
    """What is in the cache.

    Attributes:
        root: the folder of the cache.
        documents: that were encoded.
        tokens: of both sides.
        cached: everything was there already.
    """

    root: Path
    documents: int
    tokens: int
    cached: bool


def prepare_ahead(
    config: Config,
    on_event: OnEvent | None = None,
    on_progress: Progress | None = None,
) -> Made:
    """Make what `train` would make of the data before its first step.

    Args:
        config: the settings of the run.
        on_event: is called with events that the user should see.
        on_progress: as for `prepare`.

    Raises:
        LuminaError: E005 without data, E002 for data that is streamed, and as
            `prepare`.
    """
    if not names_data(config):
        raise LuminaError("E005", "no data is named", "name files, or --train-data")
    kind = chosen_kind(config)
    if kind.name == "streamed":
        raise LuminaError(
            "E002",
            "data of this size is tokenised while a run trains, so that there is "
            "nothing to prepare",
            "use --data-loading sharded, here and for `train`, to keep its tokens",
        )
    options = options_of(kind, config.data.data_options)
    data = kind.prepare(
        Request(config, options=options, on_progress=on_progress, on_event=on_event)
    )
    stats = data.stats
    return Made(
        root=cache_root(),
        documents=int(stats.get("documents", 0)),
        tokens=sum(int(stats.get(f"{side}_tokens", 0)) for side in ("train", "eval")),
        cached=bool(stats.get("cached")),
    )
