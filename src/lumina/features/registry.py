"""Loads Lumina's own features: every file in `lumina.features.declared`."""

from __future__ import annotations

import importlib
import pkgutil

from lumina.features import declared
from lumina.features.table import FEATURES

for _module in pkgutil.iter_modules(declared.__path__):
    importlib.import_module(f"{declared.__name__}.{_module.name}")

__all__ = ["FEATURES"]
