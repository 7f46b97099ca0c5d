"""Lumina's own formats of cached keys and values, one file each."""
