"""`--freeze`: the parameters that a run does not train."""

from __future__ import annotations

from fnmatch import fnmatch

from torch import nn

from lumina.assemble.logical import logical_names
from lumina.errors import LuminaError
from lumina.model.logical import FusedPieces


def freeze(
    network: nn.Module, pieces: dict[str, FusedPieces], patterns: tuple[str, ...]
) -> None:
    """Stop the parameters whose logical names match a pattern from training."""
    unmatched = set(patterns)
    for name, parameter in network.named_parameters():
        names = logical_names(name, pieces)
        hits = {n: {p for p in patterns if _matches(n, p)} for n in names}
        unmatched -= set().union(*hits.values())
        frozen = [n for n in names if hits[n]]
        if frozen and len(frozen) < len(names):
            rest = ", ".join(n for n in names if not hits[n])
            raise LuminaError(
                "E005",
                f"--freeze matches {', '.join(frozen)} but not {rest}, which share "
                "one matrix in memory",
                "freeze all of them or none",
            )
        if frozen:
            parameter.requires_grad_(False)
    if unmatched:
        known = sorted({n.split(".")[0] for n, _ in network.named_parameters()})
        raise LuminaError(
            "E005",
            f"--freeze {' '.join(sorted(unmatched))} matches no parameter",
            f"names begin with {' or '.join(known)}; patterns are globs, as "
            "'backbone.embedding.*' or 'blocks.0.*'",
        )


def _matches(name: str, pattern: str) -> bool:
    """Glob match on the whole name, or on it without its first part."""
    return fnmatch(name, pattern) or fnmatch(name.split(".", 1)[-1], pattern)
