"""The table of PEFT's types of adapter that Lumina reads and writes."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lumina.errors import LuminaError
from lumina.found_by_name import FoundByName
from lumina.state.adapters.adapter import Adapter, Piece

_RISKY = re.compile(r"[+{?]|\)\*|\*.*\*.*\*.*\*")
"""Parts of a pattern that can make its search take hours."""


class PeftType(ABC):
    """One type: its settings, and the names of its tensors.

    Attributes:
        name: as `peft_type` spells it.
        methods: of `Adapter` that it holds.
        tensors: ending of a name in the folder -> the tensor's name in a `Piece`.
        plain: settings that change the function -> the values under which the type is
            computed as here.
        options: settings that are kept as those of the method.
    """

    name: ClassVar[str]
    methods: ClassVar[tuple[str, ...]]
    tensors: ClassVar[Mapping[str, str]]
    plain: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    options: ClassVar[tuple[str, ...]] = ()

    def method(self, config: Mapping[str, Any]) -> str:
        """Which method the settings mean."""
        return self.methods[0]

    @abstractmethod
    def piece(
        self, config: Mapping[str, Any], module: str, tensors: dict[str, Tensor]
    ) -> Piece:
        """What the folder holds for one module.

        Args:
            config: the settings.
            module: path of the module, which settings by pattern refer to.
            tensors: of the module, by the names of `tensors`.

        Raises:
            LuminaError: E102 where tensors and settings contradict each other.
        """

    def prepared(self, adapter: Adapter) -> Adapter:
        """The adapter as one of a method that the type has the tensors for."""
        return adapter

    @abstractmethod
    def settings(self, adapter: Adapter) -> dict[str, Any]:
        """`adapter_config.json` for an adapter, beside what every type has.

        `target_modules`, and settings that differ by module, are added by the writer.
        """


PEFT_TYPES: FoundByName[PeftType] = FoundByName("lumina.state.adapters.peft_types")
"""By the name of the type in small letters."""


def register_peft_type(entry: type[PeftType]) -> type[PeftType]:
    """Add a type to the table."""
    PEFT_TYPES[entry.name.lower()] = entry()
    return entry


def type_holding(method: str) -> PeftType:
    """The type whose folders hold adapters of a method.

    Raises:
        LuminaError: E002 where PEFT has none.
    """
    for name in PEFT_TYPES.known():
        found = PEFT_TYPES.found(name)
        if found is not None and method in found.methods:
            return found
    raise LuminaError(
        "E002",
        f"PEFT's format has no place for an adapter of the method {method!r}",
        "merge it: `lumina adapters merge`",
    )


def by_module(
    config: Mapping[str, Any], setting: str, patterns: str, module: str
) -> Any:
    """A setting of one module: its own, where a pattern gives it one.

    Args:
        config: the settings.
        setting: name of the general one.
        patterns: name of the mapping from patterns to values.
        module: the path that a pattern has to match, or the end of which it matches.

    Raises:
        LuminaError: E102 for what is no mapping, or a pattern that is not plain.
    """
    special = config.get(patterns) or {}
    if not isinstance(special, dict):
        raise LuminaError("E102", f"{patterns} is no mapping", "write it with PEFT")
    for pattern, value in special.items():
        if _RISKY.search(pattern) or len(pattern) > 500:
            raise LuminaError(
                "E102",
                f"{patterns} has the pattern {pattern[:80]!r}, which is not plain",
                "name modules by their paths",
            )
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        except re.error as error:
            raise LuminaError(
                "E102", f"{patterns}: {pattern[:80]!r}: {error}", "mend the pattern"
            ) from None
    return config.get(setting)


def rank_and_alpha(config: Mapping[str, Any], module: str) -> tuple[int, float]:
    """The rank and the factor of one module, in the settings of LoHa and LoKr.

    Raises:
        LuminaError: as `by_module`, `rank_of` and `alpha_of`.
    """
    rank = rank_of(by_module(config, "r", "rank_pattern", module), "r")
    alpha = alpha_of(by_module(config, "alpha", "alpha_pattern", module), "alpha")
    return rank, alpha


def rank_of(value: Any, name: str) -> int:
    """A rank from a file.

    Raises:
        LuminaError: E102 for what is no whole number from 1 on.
    """
    if type(value) is not int or not 0 < value < 2**31:
        raise LuminaError(
            "E102",
            f"adapter_config.json: {name} is {value!r}",
            "a positive whole number is needed",
        )
    return value


def alpha_of(value: Any, name: str) -> float:
    """A factor from a file.

    Raises:
        LuminaError: E102 for what is no finite number.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not math.isfinite(value):
        raise LuminaError(
            "E102",
            f"adapter_config.json: {name} is {value!r}",
            "a finite number is needed",
        )
    return float(value)
