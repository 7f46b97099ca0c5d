"""How long the rows of a fine-tuning are, where no option says it.

A pretrained model's largest position count says what it can read, not what the data
needs: rows of 131,072 for turns of 300 tokens would cost memory and time in every
attention, and change nothing that is learned. Documents are packed, so a row that holds
nearly all of them whole is long enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lumina.config.provenance import Source
from lumina.model.spec import ModelSpec
from lumina.plan.decisions import asked_for
from lumina.plan.environment import Environment
from lumina.plan.layout_choice import smallest_layout_fits
from lumina.plan.shape import resolve_spec

if TYPE_CHECKING:
    from lumina.config import Config

SHARE = 99
"""Per cent of the documents that stand whole in a row; longer ones are cut."""

SHORTEST = 256
"""Shorter rows save next to nothing in attention, and cut more documents."""

LONGEST = 8192
"""Rows of Tulu 2. Longer ones must be named: most long documents, such as
books, are cut in any case."""

UNKNOWN = 2048
"""Where the data is not known."""


def with_row_length(
    config: Config,
    environment: Environment,
    model: ModelSpec,
    documents: Sequence[NDArray[np.integer[Any]]] | None,
    *,
    vocab_size: int | None,
    world_size: int,
) -> Config:
    """The settings with a `seq_length` by the data, the model and the memory.

    Args:
        config: the settings, without a chosen `seq_length`.
        environment: the machine that trains.
        model: what is tuned; its `seq_length` is the most it can read.
        documents: tokens of every document; None where they are not known.
        vocab_size: tokens the tokenizer knows; None without one.
        world_size: processes that train together.
    """
    most = model.context_length
    if documents is None:
        length = min(UNKNOWN, most)
        why = "fine-tuning: the data is not known"
    else:
        lengths = np.concatenate(documents)
        whole = int(np.percentile(lengths, SHARE, method="inverted_cdf"))
        # The last token of a document is only a label.
        length = max(SHORTEST, 1 << max(whole - 2, 0).bit_length())
        why = f"fine-tuning: holds {SHARE}% of the documents whole ({whole:,} tokens)"
        if length > LONGEST:
            length = LONGEST
            why = (
                f"fine-tuning: {SHARE}% of the documents have up to {whole:,} tokens; "
                f"rows are {LONGEST:,} unless you name more"
            )
    if length > most:
        length, why = most, f"{why}; the model reads {most:,} at most"
    trial = config
    if not asked_for(config, "global_batch_size"):
        # A preset's batch is replaced later: here only the smallest forward counts.
        trial = config.override({"global_batch_size": None}, Source("decided", why))
    longest = length
    while length > SHORTEST:
        trial = trial.override({"seq_length": length}, Source("decided", why))
        spec = resolve_spec(trial, vocab_size)
        if smallest_layout_fits(trial, environment, spec, world_size):
            break
        length //= 2
        why = f"fine-tuning: as long as fits into memory; {longest:,} does not"
    return config.override({"seq_length": length}, Source("decided", why))
