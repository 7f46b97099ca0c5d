"""Evaluation tasks: a file for each, named like it."""
