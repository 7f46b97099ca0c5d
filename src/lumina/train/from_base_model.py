"""A new model that takes tokenizer and token vectors from a language model."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from lumina.assemble.logical import split_fused
from lumina.config import Config, Source
from lumina.errors import LuminaError
from lumina.model.declared import declared, fused_pieces
from lumina.model.initial import initial_value
from lumina.plan.kinds.table import PLANNED
from lumina.plan.plan import Plan
from lumina.state.base_model import EMBEDDING, BaseModel
from lumina.state.manifest import MANIFEST_NAME
from lumina.state.run_directory import RunDirectory
from lumina.state.weights import Weights, open_weights


def borrows(config: Config, path: str) -> bool:
    """Whether the model takes parts of one of another kind that `path` holds.

    Raises:
        LuminaError: those of `open_weights`.
    """
    kinds = [kind for kind in PLANNED if kind.chosen(config) and kind.borrows(config)]
    if not kinds:
        return False
    folder = Path(path).expanduser()
    if not (folder / MANIFEST_NAME).is_file() and not RunDirectory(folder).is_run:
        return True
    weights = open_weights(path)
    weights.close()
    return any(kind.unfit(weights.spec) for kind in kinds)


def with_its_tokenizer(config: Config, base: BaseModel) -> Config:
    """The settings with the base's tokenizer, unless another was chosen.

    Raises:
        LuminaError: E104 where there is neither.
    """
    if config.data.tokenizer is not None:
        return config
    if base.tokenizer is None:
        raise LuminaError(
            "E104",
            f"there is no tokenizer.json in {base.name}",
            "name one with --tokenizer, or save the model's fast tokenizer beside it",
        )
    origin = Source("file", f"base model {base.name}")
    return config.override({"tokenizer": str(base.tokenizer)}, origin)


def borrowed(plan: Plan, config: Config, base: BaseModel) -> tuple[Weights, str]:
    """Initial weights, of which the base gives what fits; and word of what it gave.

    The rows of the embedding are multiplied by one number, so that they have the size
    that the model's own would begin with: a reasoner adds them to states of unit size.
    """
    spec = plan.spec
    own = Path(config.data.tokenizer or "") == base.tokenizer
    rows = min(spec.vocab_size, len(base.embedding))
    width = base.embedding.shape[1]
    kept: dict[str, Tensor] = {}
    if not own:
        summary = (
            f"nothing is taken from {base.name}: --tokenizer names another tokenizer"
        )
    elif width != spec.hidden_size:
        summary = (
            f"the tokenizer is taken from {base.name}; its token vectors are not: they "
            f"are {width} wide, the model is {spec.hidden_size} wide"
        )
    else:
        vectors = base.embedding[:rows]
        vectors = vectors * (width**-0.5 / vectors.square().mean().sqrt())
        kept[EMBEDDING] = vectors
        summary = (
            f"the tokenizer and {rows:,} token vectors ({base.what}) are taken from "
            f"{base.name}; nothing else fits"
        )
    source = InitialWeights(plan, kept)
    weights = Weights(spec, source, base.tokenizer, Path(base.name), summary)
    return weights, summary


class InitialWeights:
    """The initial weights of a Plan, with some rows from elsewhere, as a `Source`.

    Args:
        plan: shape and seed.
        first_rows: logical name -> what the first rows of the tensor are.
    """

    def __init__(self, plan: Plan, first_rows: dict[str, Tensor]) -> None:
        self._first_rows = first_rows
        pieces, tensors = fused_pieces(plan.spec), declared(plan.spec)
        self._owner = {
            logical: one.name
            for one in tensors.values()
            if one.saved
            for logical in one.logical_names
        }
        self._split = lru_cache(maxsize=1)(
            lambda name: split_fused(
                name, initial_value(tensors[name], plan.seed), pieces
            )
        )

    def names(self) -> list[str]:
        """Logical names."""
        return list(self._owner)

    def tensor(self, name: str) -> Tensor:
        """What a tensor begins with."""
        value: Tensor = self._split(self._owner[name])[name]
        rows = self._first_rows.get(name)
        if rows is None:
            return value
        return torch.cat([rows.to(value.dtype), value[len(rows) :]])

    def optimizer_names(self, slot: str) -> list[str]:
        """None: nothing was trained."""
        return []

    def optimizer_tensor(self, slot: str, name: str) -> Tensor:
        """Never there."""
        raise KeyError(f"{slot} {name}")

    def close(self) -> None:
        """Nothing is held open."""
