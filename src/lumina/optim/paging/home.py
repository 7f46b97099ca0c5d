"""The protocol of the places where pages live, and the table of these places."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from lumina.found_by_name import FoundByName
from lumina.optim.paging.locked import locked
from lumina.optim.paging.sizes import ALIGNMENT


class Home:
    """The bytes of one page between its uses.

    Args:
        size: bytes of the page, a multiple of `ALIGNMENT`.
        folder: where files may be made, for a place that keeps files.
        pinned: whether a GPU is to read and write host memory by itself.

    Attributes:
        staged: whether `read` needs memory of the host to read into.
        rest: [size] uint8 on the CPU, the bytes themselves. They may be read and
            written here while no `read` or `write` is under way.
    """

    staged: ClassVar[bool]
    rest: Tensor

    def __init__(self, size: int, folder: Path, *, pinned: bool) -> None:
        raise NotImplementedError

    def read(self, into: Tensor | None) -> Tensor:
        """The bytes on the CPU; called from a thread.

        Args:
            into: [size] uint8 on the CPU, where the place is staged.
        """
        raise NotImplementedError

    def target(self, staging: Tensor | None) -> Tensor:
        """Where on the CPU the next content is to be put, ahead of `write`."""
        raise NotImplementedError

    def write(self, content: Tensor) -> None:
        """Keep the content that was put into `target`; called from a thread."""
        raise NotImplementedError

    def still(self) -> Tensor | None:
        """[size] uint8, the present bytes, which nothing changes from now on.

        None where they cannot be had without a copy in memory.
        """
        return None

    def close(self) -> None:
        """Release memory and files."""


HOMES = FoundByName[type[Home]]("lumina.optim.paging.homes")
"""Every place whose file has been imported, by the name of its file."""

H = TypeVar("H", bound=type[Home])


def register_home(cls: H) -> H:
    """Enter a place in the table: a decorator of a subclass of `Home`."""
    HOMES[cls.__module__.rpartition(".")[2]] = cls
    return cls


def chosen_home(name: str) -> type[Home]:
    """The place of that name."""
    found = HOMES.found(name)
    assert found is not None, name
    return found


def aligned(size: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def memory(size: int, *, pinned: bool) -> Tensor:
    """[size] uint8, zeros, on the CPU; pinned, where a GPU is to use it by itself.

    Raises:
        LuminaError: E202 where the host has no room for so much pinned memory.
    """
    return locked(size) if pinned else torch.zeros(size, dtype=torch.uint8)
