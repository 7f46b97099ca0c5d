"""Measurements of parts of Lumina: what `lumina bench` runs."""
