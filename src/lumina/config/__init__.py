"""What the user asked for: typed options, presets, files, and where each came from."""

from __future__ import annotations

from lumina.config.config import Config
from lumina.config.config_presets import ConfigPresets
from lumina.config.provenance import Source

__all__ = ["Config", "ConfigPresets", "Source"]
