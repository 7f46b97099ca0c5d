"""Measures of the rows of a store, one file each, for curricula and sampling."""

from lumina.data.mixture.measures import length, quality, rarity, variety
from lumina.data.mixture.measures.table import MEASURES, Measure, register_measure

__all__ = ["MEASURES", "Measure", "register_measure"]

OWN = (length, quality, rarity, variety)
"""The files of Lumina's own measures; each registers itself as it is imported."""
