"""What compressed gradients still owe the weights, between a Program and a State.

Every rank has errors of its own, so a State has a slot for each rank. The factors that
the next step begins with are the same on all ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lumina.assemble.logical import join_fused, logical_names, split_fused
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.assemble.program import Program
    from lumina.assemble.source import Source

NAME = "gradient_errors"
"""The entry of a State's `extra` that says of how many ranks it holds errors."""

FACTORS = "gradient_factors"
"""The slot of the factors: first logical name of a parameter -> [count, columns, rank].
"""


def slot_of(rank: int) -> str:
    """The slot of the errors of a rank: logical name -> float32 of its shape."""
    return f"gradient_error_{rank}"


def held_errors(
    program: Program, factors: bool, copied: Callable[[Tensor], Tensor]
) -> dict[str, dict[str, Tensor]]:
    """The slots that this rank is to write; none while gradients are exchanged whole.

    Args:
        program: what is captured.
        factors: whether this rank has the factors as well.
        copied: makes a copy on the CPU.
    """
    low_rank = program.way.low_rank
    if low_rank is None or not low_rank.begun:
        return {}
    errors: dict[str, Tensor] = {}
    for one in low_rank.apart:
        whole = copied(one.error)
        errors |= split_fused(one.name, whole, program.pieces)
    found = {slot_of(program.mesh.tokens.rank): _contiguous(errors)}
    if factors:
        found[FACTORS] = {
            _first_name(program, one.name): copied(one.right) for one in low_rank.apart
        }
    return found


def restore_errors(program: Program, source: Source, extra: dict[str, Any]) -> None:
    """Give this rank its errors back, and the factors.

    On another number of ranks than before, each begins with the mean of the errors: the
    mean over the ranks, which is what was not exchanged yet, stays what it was. Factors
    of another rank begin anew, and so does all of it where it was not there.

    All ranks read the same tensors in the same order.

    Raises:
        LuminaError: E303 where errors of a rank are missing.
    """
    low_rank, before = program.way.low_rank, int(extra.get(NAME, 0))
    if low_rank is None or not before:
        return
    tokens = program.mesh.tokens
    slots = [slot_of(rank) for rank in range(before)]
    held = {slot: set(source.optimizer_names(slot)) for slot in slots}
    # A State in memory, which no other rank reads, has those of this rank only.
    there = [slot for slot in slots if held[slot]]
    if not there:
        return
    low_rank.begun = True
    alike = before == tokens.size
    own = slot_of(tokens.rank)
    factors = set(source.optimizer_names(FACTORS))
    for one in low_rank.apart:
        names = logical_names(one.name, program.pieces)
        found = {
            slot: join_fused(one.name, program.pieces, _reader(source, slot))
            for slot in there
            if held[slot].issuperset(names)
        }
        if len(found) != before and not (alike and own in found):
            raise _missing(one.name, (slot for slot in slots if slot not in found))
        one.error.zero_()
        for slot, value in found.items():
            if slot == own or not alike:
                share = 1 if alike else before
                one.error.add_(value.to(one.error.device), alpha=1 / share)
        first = _first_name(program, one.name)
        if first in factors:
            factor = source.optimizer_tensor(FACTORS, first)
            if factor.shape == one.right.shape:
                one.right.copy_(factor)


def _reader(source: Source, slot: str) -> Callable[[str], Tensor]:
    return lambda name: source.optimizer_tensor(slot, name)


def _missing(name: str, slots: Iterable[str]) -> LuminaError:
    return LuminaError(
        "E303",
        f"the checkpoint holds no {', '.join(slots)} for {name}",
        "use --init-from to start from its weights alone",
    )


def _first_name(program: Program, name: str) -> str:
    return logical_names(name, program.pieces)[0]


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.contiguous() for name, tensor in tensors.items()}
