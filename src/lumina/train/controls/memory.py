"""The control of unused memory: what the allocator keeps can be given back."""

from __future__ import annotations

from typing import Any

from lumina.assemble.emptying import empty_cache
from lumina.assemble.program import Program
from lumina.train.controls.control import Control
from lumina.train.controls.table import register_control


@register_control
class MemoryCache(Control):
    """Memory that is held for later use; no result depends on it."""

    name = "memory_cache"
    allowed = 'it is "empty"'
    final = "the memory is taken again as it is needed"
    kept_in_state = True

    def makes_sense(self, value: Any) -> bool:
        """Whether it asks to give the memory back."""
        return bool(value == "empty")

    def now(self, program: Program, step: int) -> str:
        """There is no value that could be put back."""
        return "kept"

    def set(self, program: Program, value: Any) -> None:
        """Give back what the allocator holds without using it."""
        empty_cache()
