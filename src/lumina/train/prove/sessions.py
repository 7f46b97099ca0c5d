"""The training of a bundle, assembled for one piece."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lumina.data.kinds import names_data
from lumina.ending import closed_after
from lumina.observe.console import Console
from lumina.train.bench.rows import random_feed
from lumina.train.preparation import Preparation
from lumina.train.profiling.session import Session, prepared_for
from lumina.train.prove.piece import Asked

LONG = 100_000
"""More steps than any piece takes."""


def quiet() -> Console:
    """A console that shows nothing."""
    return Console(stream=io.StringIO(), live=False)


@contextmanager
def session_of(asked: Asked) -> Iterator[Session]:
    """The training, with random rows where no data is named; freed at the end."""
    config = asked.config
    rows = None if names_data(config) else random_feed(config.get("seed"))
    session = Session(config, LONG, quiet(), rows)
    try:
        with closed_after(session.close):
            yield session
    finally:
        del session
        free()


def planned(asked: Asked) -> Preparation:
    """What the training would do; its data is read where some is named."""
    without = not names_data(asked.config)
    return prepared_for(asked.config, LONG, quiet(), without_data=without)


def free() -> None:
    """Give back the memory that the last piece has left."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
