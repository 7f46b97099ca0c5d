"""The settings of an adapter, as they stand in the shape of a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

DEFAULT = "default"
"""The name of an adapter that has no other."""


@dataclass(frozen=True)
class AdapterSpec:
    """One adapter: a set of small tensors beside chosen matrices of a model.

    Attributes:
        name: of this adapter; several named ones can stand on the same matrices.
        method: a name of `lumina.model.adapters.table.METHODS`.
        rank: width of the narrow side of its matrices.
        alpha: numerator of the factor on what it adds.
        dropout: share of its input that is dropped in training.
        targets: which matrices it stands on, as `lumina.model.adapters.sites.chosen`
            reads them.
        weight: factor on all that it changes; 0 switches it off.
        ranks: name of a piece, or a pattern over names in files -> its own rank.
        alphas: the same for alpha.
        also: patterns over names in files of base parameters that train beside it.
        options: further settings of the method, by name.
    """

    name: str = DEFAULT
    method: str = "lora"
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    weight: float = 1.0
    ranks: dict[str, int] = field(default_factory=dict, hash=False)
    alphas: dict[str, float] = field(default_factory=dict, hash=False)
    also: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict, hash=False)
