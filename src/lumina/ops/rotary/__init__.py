"""Rotary position embedding and its context extensions."""
