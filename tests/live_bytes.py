"""Counts the bytes of tensors that are alive while something runs."""

from lumina.measure.live_bytes import LiveBytes

__all__ = ["LiveBytes"]
