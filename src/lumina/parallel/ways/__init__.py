"""Lumina's own ways of being parallel: one file each, which registers itself.

No module of this package imports torch when it is imported: the planner reads them.
"""

from __future__ import annotations

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
