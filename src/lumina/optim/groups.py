"""Which optimizer trains which tensor, and at which rate: the first pattern decides."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from lumina.errors import LuminaError
from lumina.optim.declared import chosen_optimizer

ROLE = "role:"
"""What a pattern begins with that names a role rather than tensors."""


@dataclass(frozen=True)
class Group:
    """Tensors that share an optimizer.

    Attributes:
        pattern: as of `matches`.
        optimizer: its name.
    """

    pattern: str
    optimizer: str

    def matches(self, name: str, role: str) -> bool:
        """Whether a tensor is in this group, as far as the pattern goes."""
        return matches(self.pattern, name, role)


@dataclass(frozen=True)
class Factor:
    """Tensors whose learning rate, or whose weight decay, is multiplied.

    Attributes:
        pattern: as of `matches`.
        value: what it is multiplied by.
    """

    pattern: str
    value: float

    def matches(self, name: str, role: str) -> bool:
        """Whether the factor is that of a tensor, as far as the pattern goes."""
        return matches(self.pattern, name, role)


def matches(pattern: str, name: str, role: str) -> bool:
    """Whether a pattern names a tensor.

    Args:
        pattern: a glob over names in files (where fused matrices are separate), which
            is matched on the whole name or without its first part; or `role:` and a
            role, such as role:matrix.
        name: of the tensor in files.
        role: as of `TensorInfo`.
    """
    if pattern.startswith(ROLE):
        return role == pattern.removeprefix(ROLE)
    short = name.split(".", 1)[-1]
    return fnmatchcase(name, pattern) or fnmatchcase(short, pattern)


ALWAYS = (Group("role:puzzle", "sign_sgd"),)
"""Groups that follow those of the options, in every run."""


def parse_groups(texts: Sequence[str]) -> tuple[Group, ...]:
    """The groups that `--optimizer-groups PATTERN=OPTIMIZER ...` describes.

    Raises:
        LuminaError: E005 for a text that is none.
    """
    found = []
    for text in texts:
        pattern, equals, optimizer = text.rpartition("=")
        if not (equals and pattern and optimizer):
            raise LuminaError(
                "E005",
                f"optimizer_groups cannot be {text!r}",
                "write PATTERN=OPTIMIZER, as in '*.feedforward.*=adam_atan2' or "
                "role:embedding=adam_atan2",
            )
        found.append(Group(pattern, optimizer))
    return tuple(found)


def parse_factors(texts: Sequence[str], option: str) -> tuple[Factor, ...]:
    """The factors that PATTERN=FACTOR ... describes.

    Args:
        texts: as given.
        option: the option that gives them, for the error.

    Raises:
        LuminaError: E005 for a text that is none.
    """
    found = []
    for text in texts:
        pattern, _, written = text.rpartition("=")
        try:
            value = float(written)
        except ValueError:
            value = math.nan
        if not (pattern and 0 <= value < math.inf):
            raise LuminaError(
                "E005",
                f"{option} cannot be {text!r}",
                "write PATTERN=FACTOR with a number from 0, as in role:embedding=0.1 "
                "or '*.attention.*=2'",
            )
        found.append(Factor(pattern, value))
    return tuple(found)


def factor_of(name: str, role: str, factors: Sequence[Factor]) -> float:
    """What a tensor's rate or decay is multiplied by; 1 where no pattern matches."""
    return next((one.value for one in factors if one.matches(name, role)), 1.0)


def optimizer_of(
    name: str, role: str, optimizer: str, groups: Sequence[Group], dimensions: int
) -> str:
    """The optimizer that trains a tensor.

    Args:
        name: of the tensor in files.
        role: as of `TensorInfo`.
        optimizer: of the tensors that no pattern matches.
        groups: those of the options.
        dimensions: of the tensor.

    Returns:
        Of the first group that matches; else `optimizer`, or the one that it names for
        what it leaves.
    """
    for group in (*groups, *ALWAYS):
        if group.matches(name, role):
            return group.optimizer
    main = chosen_optimizer(optimizer)
    left = role in main.leaves or role in main.roles
    if main.rest is not None and left and not main.trains(role, dimensions):
        return main.rest
    return optimizer
