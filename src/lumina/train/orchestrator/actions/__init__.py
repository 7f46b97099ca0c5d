"""What the orchestrator can do: one file for each action.

A further action is a subclass of `Action` under `@register_action` in a file of its
own: a plug-in file, or a module of this package.
"""

import importlib
import pkgutil

from lumina.train.orchestrator.actions.action import (
    ACTIONS,
    Action,
    controls_of_actions,
    register_action,
)

__all__ = ["ACTIONS", "Action", "controls_of_actions", "register_action"]

for _module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")
