"""What each kind of gradient checkpointing keeps of each block. No torch here.

A kind decides for every block what is kept of its activations between the forward and
the backward pass. The planner counts the bytes, `lumina.assemble.checkpointing` carries
the decision out, and nothing else looks at a kind's name.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

KEPT = ("none", "selective", "full")
"""What a block can recompute: nothing; all but products and attention; everything but
its input. From the most memory to the least."""

BRANCHES = ("attention", "feedforward")
"""Kinds that recompute one branch of every block and keep all of the other one."""

EXCEPT = "except_attention"
"""Computes a block again as `full` does, but keeps what attention gave. In long rows
attention is most of the work, and its result is as small as the block's input."""

BRANCH = 0.5
"""Part of a block's forward pass that one branch is taken for; which of them is larger
depends on the length of rows."""

SELECTIVE = 0.1
"""Operations that `selective` adds to a block, over those of its step."""


@dataclass(frozen=True)
class Checkpointing:
    """One kind of gradient checkpointing.

    Attributes:
        name: as written after `--gradient-checkpointing`.
        by_block: what each of this many blocks recomputes, words of `KEPT`; takes the
            number of blocks and the decisions that the plan holds for single blocks.
        segment: how many blocks are computed again together; 1: each by itself. The
            input of a segment is kept; those of its blocks only while it goes back.
        recomputes: whether it may compute a block again.
    """

    name: str
    by_block: Callable[[int, Sequence[str]], tuple[str, ...]]
    segment: Callable[[int], int] = lambda blocks: 1
    recomputes: bool = True


class Decided(Protocol):
    """What a Plan and a Layout have in common here."""

    @property
    def gradient_checkpointing(self) -> str:
        """The kind's name."""

    @property
    def block_checkpointing(self) -> tuple[str, ...]:
        """The decisions for single blocks, where the kind has them."""


def _all(kind: str) -> Callable[[int, Sequence[str]], tuple[str, ...]]:
    def by_block(blocks: int, decided: Sequence[str]) -> tuple[str, ...]:
        return (kind,) * blocks

    return by_block


def _as_decided(blocks: int, decided: Sequence[str]) -> tuple[str, ...]:
    """Each as it was decided; without a decision the whole block is computed again."""
    return tuple(decided) if len(decided) == blocks else ("full",) * blocks


def root_segment(blocks: int) -> int:
    """Blocks of a segment, about the square root of all (Chen et al., 2016)."""
    return max(1, math.ceil(math.sqrt(blocks)))


KINDS: dict[str, Checkpointing] = {
    kind.name: kind
    for kind in (
        Checkpointing("none", _all("none"), recomputes=False),
        *(Checkpointing(name, _all(name)) for name in BRANCHES),
        Checkpointing("selective", _all("selective")),
        Checkpointing("budget", _as_decided),
        Checkpointing(EXCEPT, _all(EXCEPT)),
        Checkpointing("full", _all("full")),
        Checkpointing("sqrt", _all("full"), root_segment),
    )
}
"""Every kind by name, from the most memory to the least."""

AUTOMATIC = ("none", "selective", "full")
"""What the plan chooses among where no option names a kind."""


def kind_of(decided: Decided) -> Checkpointing:
    """The kind of a Plan or a Layout."""
    return KINDS[decided.gradient_checkpointing]


def recomputes(decided: Decided, blocks: int) -> tuple[str, ...]:
    """What each block recomputes, words of `KEPT`."""
    return kind_of(decided).by_block(blocks, decided.block_checkpointing)


def segments(blocks: int, size: int) -> list[range]:
    """Runs of this many blocks; the last may be shorter."""
    return [range(at, min(at + size, blocks)) for at in range(0, blocks, size)]


def forwards_again(decided: Decided, blocks: int) -> float:
    """Forward passes of all blocks that the backward pass makes once more."""
    kinds = recomputes(decided, blocks)
    passes: float = kinds.count("full") + kinds.count(EXCEPT)
    passes += BRANCH * sum(kind in BRANCHES for kind in kinds)
    size = kind_of(decided).segment(blocks)
    if size > 1:  # all but the last segment run forwards once more
        passes += blocks - len(segments(blocks, size)[-1])
    return passes / max(1, blocks)


def recomputed_share(decided: Decided, blocks: int) -> float:
    """Operations that checkpointing adds to a step, whose third is a forward."""
    partly = recomputes(decided, blocks).count("selective") / max(1, blocks)
    return forwards_again(decided, blocks) / 3 + SELECTIVE * partly


def stronger(name: str) -> tuple[str, ...]:
    """Kinds that keep less than this one and need no decision for single blocks."""
    names = list(KINDS)
    return tuple(n for n in names[names.index(name) + 1 :] if n != "budget")


def decisions(blocks: int) -> list[tuple[str, ...]]:
    """What `budget` may decide, from the least recomputed to the most.

    The first blocks recompute more than the last: the backward pass begins with the
    last blocks, so that what they kept is gone when the first ones compute again.
    """
    found: list[tuple[str, ...]] = []
    for less, more in itertools.pairwise(KEPT):
        start = 0 if not found else 1
        for count in range(start, blocks + 1):
            found.append((more,) * count + (less,) * (blocks - count))
    return found


def runs_of(kinds: Sequence[Any]) -> str:
    """Equal neighbours in words, such as `4 full, 8 selective`."""
    groups: list[tuple[Any, int]] = []
    for kind in kinds:
        if groups and groups[-1][0] == kind:
            groups[-1] = (kind, groups[-1][1] + 1)
        else:
            groups.append((kind, 1))
    return ", ".join(f"{count} {kind}" for kind, count in groups)
