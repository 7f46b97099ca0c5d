"""The model that an evaluation is of, from wherever it is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from lumina.data.data_events import OnEvent
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.load import (
    Model,
    Precision,
    in_few_bits,
    load_weights,
    with_tokenizer,
)
from lumina.model.network import Network
from lumina.state.adapters.named import with_adapters
from lumina.state.task_heads import require_text
from lumina.state.weights import Which, open_weights


@dataclass(frozen=True)
class Evaluated:
    """A model of text to evaluate.

    Attributes:
        network: on its device.
        tokenizer: its.
        description: which weights these are.
        settings: the options of the run that they come from; {} where there is none.
    """

    network: Network
    tokenizer: Tokenizer
    description: str
    settings: dict[str, Any] = field(default_factory=dict)


def open_evaluated(
    run: Model,
    *,
    device: str,
    precision: Precision,
    which: Which,
    ema: bool,
    task: str | None,
    adapters: Sequence[str],
    on_event: OnEvent | None,
) -> Evaluated:
    """Open a model; the arguments are those of `lumina.evaluate`.

    Raises:
        LuminaError: as `lumina.load`; E002 for a model of puzzles, and for adapters of
            a model that is loaded; E005 where a task is to be named.
    """
    if not isinstance(run, str | os.PathLike):
        if adapters:
            raise LuminaError(
                "E002",
                "adapters are added to weights as they are read; this model is loaded",
                "give the folder of the model, or load it with its adapters",
            )
        return Evaluated(*with_tokenizer(run), "the model given")
    weights = open_weights(run, which, ema=ema, on_event=on_event)
    try:
        few = in_few_bits(weights, precision, device)
        weights = with_adapters(weights, adapters, beside=few, on_event=on_event)
        require_text(weights, task)
        network, tokenizer = load_weights(
            weights, device, precision=precision, task=task
        )
    finally:
        weights.close()
    if weights.averages_too and on_event is not None:
        on_event(
            kind="averaged_weights",
            severity="info",
            code=None,
            message="the run keeps averaged weights too, and its own eval_loss is "
            "theirs; ema (--ema) evaluates them",
        )
    return Evaluated(network, tokenizer, weights.description, weights.settings)
