"""Adapters as a command names them: `FOLDER`, or `FOLDER=FACTOR`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lumina.errors import LuminaError
from lumina.model.declared import logical_shapes
from lumina.model.spec import ModelSpec
from lumina.state.adapter_base import content_of
from lumina.state.adapters.adapter import Adapter
from lumina.state.adapters.attached import attached, taken_apart
from lumina.state.adapters.merging import merged
from lumina.state.adapters.reading import is_adapter_folder, read_adapter
from lumina.state.huggingface.files import read_json
from lumina.state.huggingface.latent import Habits, habits_of
from lumina.state.reader import OnEvent
from lumina.state.weights import Weights, open_weights


def folder_and_factor(text: str) -> tuple[Path, float]:
    """Where an adapter is, and the factor of its change.

    Raises:
        LuminaError: E005 for a factor that is no finite number.
    """
    whole = Path(text).expanduser()
    folder, equals, factor = text.rpartition("=")
    if not equals or whole.exists():
        return whole, 1.0
    number = factor_of(factor)
    if not folder or number is None:
        raise LuminaError(
            "E005",
            f"--adapter {text}: {factor!r} is no factor",
            "give a folder, or a folder and a number: --adapter FOLDER=0.5",
        )
    return Path(folder).expanduser(), number


def factor_of(text: str) -> float | None:
    """A finite number, or None for what is none."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def read_named(texts: Sequence[str], spec: ModelSpec) -> list[tuple[Adapter, float]]:
    """The adapters that a command names, each with the factor of its change.

    Raises:
        LuminaError: as `read_adapter`; E002 where one is named twice.
    """
    found = [folder_and_factor(text) for text in texts]
    places = [folder.resolve() for folder, _ in found]
    if len(set(places)) < len(places):
        raise LuminaError(
            "E002",
            f"{max(places, key=places.count)} is named twice",
            "name it once; FOLDER=2 doubles its change",
        )
    plain = replace(spec, adapters=())
    return [
        (one, factor * weight)
        for folder, factor in found
        for one, weight in read_any(folder, plain)
    ]


def read_any(folder: Path, spec: ModelSpec) -> list[tuple[Adapter, float]]:
    """The adapters in a folder of PEFT's format, or in a run that trained some.

    Args:
        folder: one of the two.
        spec: the shape of the model that they are to change, without adapters.

    Returns:
        Each with the factor that its run gave it; 1 for a folder of PEFT's format.

    Raises:
        LuminaError: as `read_adapter` and `open_weights`; E102 for a run of another
            shape, E105 for one without adapters.
    """
    if is_adapter_folder(folder) or not folder.is_dir():
        return [(read_adapter(folder, spec), 1.0)]
    weights = open_weights(folder)
    try:
        plain, found = taken_apart(weights)
        if not found:
            raise LuminaError(
                "E105",
                f"{folder} has no adapter",
                "name a folder in PEFT's format, or a run trained with --use-peft",
            )
        if logical_shapes(plain.spec) != logical_shapes(spec):
            raise LuminaError(
                "E102",
                f"the adapters of {folder} are for a model of another shape",
                "use the model that they were trained on",
            )
        name = folder.resolve().name
        return [
            (replace(one, name=name if len(found) == 1 else one.name), weight)
            for one, weight in found
        ]
    finally:
        weights.close()


def with_adapters(
    weights: Weights,
    texts: Sequence[str],
    *,
    beside: bool = False,
    on_event: OnEvent | None = None,
) -> Weights:
    """The weights with the adapters that a command names.

    Args:
        weights: of the model.
        texts: as `FOLDER` or `FOLDER=FACTOR`.
        beside: keep them beside the weights, where they can be switched; else they are
            merged into them.
        on_event: called where an adapter was trained on other weights.

    Raises:
        LuminaError: as `read_named`, and for `beside` as `attached`.
    """
    adapters = read_named(texts, weights.spec)
    check_order(weights, [one for one, _ in adapters], on_event)
    if on_event is not None:
        _tell_other_base(weights, adapters, on_event)
    return attached(weights, adapters) if beside else merged(weights, adapters)


_REORDERED = (
    ".attention.q.weight",
    ".attention.q_up.weight",
    ".attention.kv_down.weight",
)
"""Weights of latent attention that an import may put in another order or scale."""


def check_order(
    weights: Weights, adapters: Sequence[Adapter], on_event: OnEvent | None
) -> None:
    """Refuse, or warn of, adapters for another order of channels than the weights'.

    DeepSeek models with `rope_interleave` false, or with YaRN's temperature, are read
    with the channels of their queries and keys reordered or scaled. An adapter that
    PEFT trained on such a model fits the weights as they were.

    Raises:
        LuminaError: E002 where the folder of the weights says that they were.
    """
    foreign = [
        one.name
        for one in adapters
        if one.base_hash is None
        and any(name.endswith(_REORDERED) for name in one.pieces)
    ]
    if not weights.spec.mla_kv_rank or not foreign:
        return
    config = weights.path / "config.json"
    if config.is_file():
        if habits_of(read_json(config), weights.spec) == Habits():
            return
        raise LuminaError(
            "E002",
            f"{', '.join(foreign)} changes queries or keys of {weights.path}, whose "
            "channels are reordered or scaled as they are read",
            "merge the adapter into its model with PEFT and use the merged model",
        )
    if on_event is not None:
        on_event(
            "adapter_base",
            "warning",
            None,
            f"{', '.join(foreign)} changes queries or keys of latent attention: it is "
            "wrong here if its model has rope_interleave false or YaRN's temperature "
            "in its config.json; then merge it with PEFT before the import",
            None,
        )


def _tell_other_base(
    weights: Weights, adapters: Sequence[tuple[Adapter, float]], on_event: OnEvent
) -> None:
    """Say which adapters were trained on other weights than these."""
    named = [one for one, _ in adapters if one.base_hash is not None]
    if not named:
        return
    own = content_of(weights.path)
    for one in named:
        if one.base_hash != own:
            message = (
                f"{one.name} was trained on other weights than those of {weights.path}"
                + (f": {one.base}" if one.base else "")
            )
            on_event("adapter_base", "warning", None, message, None)
        elif one.base_storage:
            message = (
                f"{one.name} was trained with its base in {one.base_storage}; on these "
                "weights as they are in their files, it may do worse"
            )
            on_event("adapter_base", "info", None, message, None)
