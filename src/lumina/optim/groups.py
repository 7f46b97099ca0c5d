"""Which optimizer trains which tensor: the first pattern that matches decides."""

from __future__ import annotations

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
        pattern: a glob over names in files (where fused matrices are separate), which
            is matched on the whole name or without its first part; or `role:` and a
            role, such as role:matrix.
        optimizer: its name.
    """

    pattern: str
    optimizer: str

    def matches(self, name: str, role: str) -> bool:
        """Whether a tensor is in this group, as far as the pattern goes."""
        if self.pattern.startswith(ROLE):
            return role == self.pattern.removeprefix(ROLE)
        short = name.split(".", 1)[-1]
        return fnmatchcase(name, self.pattern) or fnmatchcase(short, self.pattern)


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


def optimizer_of(name: str, role: str, optimizer: str, groups: Sequence[Group]) -> str:
    """The optimizer that trains a tensor.

    Args:
        name: of the tensor in files.
        role: as of `TensorInfo`.
        optimizer: of the tensors that no pattern matches.
        groups: those of the options.

    Returns:
        Of the first group that matches; else `optimizer`, or the one that it names for
        the roles that it cannot train.
    """
    for group in (*groups, *ALWAYS):
        if group.matches(name, role):
            return group.optimizer
    main = chosen_optimizer(optimizer)
    if main.rest is not None and role not in main.roles:
        return main.rest
    return optimizer
