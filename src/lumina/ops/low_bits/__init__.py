"""Matrices in few bits: codecs in a table, and products with what they hold."""
