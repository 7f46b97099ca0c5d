"""Which parameters `freeze` stops from training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from lumina.errors import LuminaError
from lumina.model.declared import parameters
from lumina.model.spec import ModelSpec


def frozen_parameters(spec: ModelSpec, patterns: Sequence[str]) -> frozenset[str]:
    """Names of the parameters that match a pattern; with adapters, all of the base.

    Of a model with adapters the base's parameters train only where a pattern of an
    adapter's `also` names them.

    Args:
        spec: the resolved shape.
        patterns: globs over the names in files, where fused matrices are separate,
            matched on the whole name or on it without its first part.

    Raises:
        LuminaError: E005 for a pattern that matches nothing, or only some of the
            matrices that are one in memory.
    """
    frozen: set[str] = _base(spec) if spec.adapters else set()
    unmatched = set(patterns)
    if not patterns:
        return frozenset(frozen)
    for one in parameters(spec):
        hits = {
            name: {pattern for pattern in patterns if _matches(name, pattern)}
            for name in one.logical_names
        }
        unmatched -= set().union(*hits.values())
        matched = [name for name in hits if hits[name]]
        if matched and len(matched) < len(hits):
            rest = ", ".join(name for name in hits if not hits[name])
            raise LuminaError(
                "E005",
                f"freeze matches {', '.join(matched)} but not {rest}, which share one "
                "matrix in memory",
                "freeze all of them or none",
            )
        if matched:
            frozen.add(one.name)
    if unmatched:
        known = sorted({one.name.split(".")[0] for one in parameters(spec)})
        raise LuminaError(
            "E005",
            f"freeze {' '.join(sorted(unmatched))} matches no parameter",
            f"names begin with {' or '.join(known)}; patterns are globs, such as "
            "'backbone.embedding.*' or 'blocks.0.*'",
        )
    return frozenset(frozen)


def _base(spec: ModelSpec) -> set[str]:
    """The parameters of the base that no adapter's `also` lets train."""
    also = [pattern for adapter in spec.adapters for pattern in adapter.also]
    base = [one for one in parameters(spec) if one.role != "adapter"]
    frozen = {
        one.name
        for one in base
        if not any(_matches(n, p) for n in one.logical_names for p in also)
    }
    for pattern in also:
        if not any(_matches(n, pattern) for one in base for n in one.logical_names):
            raise LuminaError(
                "E005",
                f"no parameter of the base is named by {pattern}",
                "name parameters that train beside the adapters as in "
                "'objective.head.*' or 'backbone.norm.weight'",
            )
    return frozen


def without_absent(spec: ModelSpec) -> ModelSpec:
    """The shape with adapters whose `also` names only parameters that it has.

    For shapes that stand for a part of a model, such as one without its halting head.
    """
    names = [n for one in parameters(spec) for n in one.logical_names]
    adapters = tuple(
        replace(
            one, also=tuple(p for p in one.also if any(_matches(n, p) for n in names))
        )
        for one in spec.adapters
    )
    return replace(spec, adapters=adapters) if spec.adapters else spec


def _matches(name: str, pattern: str) -> bool:
    """Glob match on the whole name, or on it without its first part."""
    return fnmatchcase(name, pattern) or fnmatchcase(name.split(".", 1)[-1], pattern)
