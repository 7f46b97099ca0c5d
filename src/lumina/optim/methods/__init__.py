"""Lumina's own optimizers: one file each, named like its optimizer."""
