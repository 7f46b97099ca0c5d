"""Attention of rows whose tokens are divided over several ranks."""
