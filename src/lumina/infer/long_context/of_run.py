"""How far back a trained model reads: from its folder to the figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from lumina.config import Config
from lumina.data.data_events import OnEvent
from lumina.data.prepare import prepare
from lumina.data.sources.find import find_sources
from lumina.data.store import TokenStore
from lumina.errors import LuminaError
from lumina.infer.load import Precision, load_weights
from lumina.infer.long_context.examine import (
    OnRow,
    Reading,
    check_lengths,
    examine,
    reach,
    stretched,
)
from lumina.model.kinds.table import why_not
from lumina.state.adapters.named import with_adapters
from lumina.state.weights import Which, open_weights


@dataclass(frozen=True)
class Context:
    """How far back a model reads.

    Attributes:
        model: which weights these are.
        trained: tokens of the rows that it was trained on.
        positions: how its positions are scaled here, in words.
        readings: by length.
    """

    model: str
    trained: int
    positions: str
    readings: list[Reading]

    @property
    def reach(self) -> int:
        """The longest length that is read, with all shorter ones; 0: none of them."""
        return reach(self.readings)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "model": self.model,
            "trained": self.trained,
            "positions": self.positions,
            "reach": self.reach,
            "readings": [reading.to_dict() for reading in self.readings],
        }


def context_of(
    run: str | os.PathLike[str],
    lengths: Sequence[int] = (),
    data: Sequence[str] = (),
    *,
    rope_scaling: str | None = None,
    rope_factor: float = 1.0,
    rope_original_length: int | None = None,
    asked: int = 4,
    rows: int = 4,
    seed: int = 0,
    device: str = "auto",
    precision: Precision = "auto",
    which: Which = "latest",
    ema: bool = False,
    adapters: Sequence[str] = (),
    on_event: OnEvent | None = None,
    on_row: OnRow | None = None,
) -> Context:
    """Needles and the loss by position of a trained model.

    Args:
        run: a run directory, a checkpoint or an exported folder.
        lengths: tokens of the rows; none: a quarter, a half and all of the length that
            was trained, and twice that where positions have no end.
        data: files of long texts, see `examine`.
        rope_scaling: other positions than the model's own, see `stretched`.
        rope_factor: likewise.
        rope_original_length: likewise.
        asked: facts at each depth.
        rows: rows of text of each length at most.
        seed: of facts and haystacks.
        device: as for `lumina.load`, as are the arguments down to `adapters`.
        precision: see there.
        which: see there.
        ema: see there.
        adapters: see there.
        on_event: called for remarks on the weights and the data.
        on_row: called with the progress.

    Raises:
        LuminaError: as `lumina.load`; E002 for models that do not predict text with
            one head; those of `stretched`, `check_lengths` and `examine`.
    """
    files = [os.path.expanduser(name) for name in data]
    if files:
        find_sources(files)  # missing ones are refused before the model is read
    if asked < 1 or rows < 1:
        raise LuminaError(
            "E005",
            f"with {asked} needles in {rows} rows there is nothing to find",
            "give at least 1 of each",
        )
    weights = open_weights(run, which, ema=ema, on_event=on_event)
    try:
        weights = with_adapters(weights, adapters)
        spec = weights.spec
        if why_not(spec, "long_contexts"):
            raise LuminaError(
                "E002",
                f"{weights.description} does not predict text with one head",
                "give a model of text without tasks",
            )
        if rope_scaling is not None:
            spec = stretched(spec, rope_scaling, rope_factor, rope_original_length)
            weights = replace(weights, spec=spec)
        trained = spec.context_length
        ends = spec.pos_encodings == "learned"
        named = tuple(lengths) or tuple(
            trained * part // 4 for part in (1, 2, 4, *(() if ends else (8,)))
        )
        check_lengths(spec, named)
        network, tokenizer = load_weights(weights, device, precision=precision)
        store: TokenStore | None = None
        if files:
            config = Config(train_data=files, eval_fraction=0.0)
            store = prepare(config, tokenizer=tokenizer, on_event=on_event).train
        readings = examine(
            network,
            tokenizer,
            named,
            store=store,
            asked=asked,
            rows=rows,
            seed=seed,
            on_row=on_row,
        )
    finally:
        weights.close()
    return Context(weights.description, trained, _positions(spec), readings)


def _positions(spec: Any) -> str:
    """How positions enter, in words."""
    if spec.pos_encodings != "rope":
        return str(spec.pos_encodings)
    if spec.rope_scaling == "none":
        return "rope"
    return f"rope, {spec.rope_scaling} by {spec.rope_factor:g}"
