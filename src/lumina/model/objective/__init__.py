"""Modules that own a head and its loss."""
