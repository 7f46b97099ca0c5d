"""Lumina's own features. A file here declares one, or those of one subject.

Each file calls `register`; `lumina.features.registry` loads them all, so that a new
feature is one new file.
"""
