"""The table of controls: name -> declaration."""

from __future__ import annotations

from typing import TypeVar

from lumina.errors import LuminaError
from lumina.similar_names import did_you_mean
from lumina.train.controls.control import Control
from lumina.train.controls.features import switch_of

_CONTROLS: dict[str, Control] = {}

C = TypeVar("C", bound=type[Control])


def register_control(cls: C) -> C:
    """A decorator of a subclass of `Control`, which runs can then change by its name.

    Raises:
        LuminaError: E005 for a name that another control has.
    """
    held = _CONTROLS.get(cls.name)
    if held is not None and type(held).__qualname__ != cls.__qualname__:
        raise LuminaError(
            "E005",
            f"{cls.name!r} already names the control {type(held).__qualname__} of "
            f"{type(held).__module__}",
            "choose another name",
        )
    _CONTROLS[cls.name] = cls()
    return cls


def known_controls() -> tuple[str, ...]:
    """The names of all controls, in the order in which they were registered."""
    return tuple(_CONTROLS)


def control_named(name: str) -> Control:
    """The control of that name; a feature is a control too.

    Raises:
        LuminaError: E004 when there is none.
    """
    control = _CONTROLS.get(name) or switch_of(name)
    if control is None:
        meant = did_you_mean(name, _CONTROLS)
        raise LuminaError(
            "E004",
            f"there is no control named {name}",
            f"{meant}controls are {', '.join(_CONTROLS)}; one of your own is in a file "
            "named with --plugins",
        )
    return control
