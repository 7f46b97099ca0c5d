"""Deciding again what a run decided, from its files."""
