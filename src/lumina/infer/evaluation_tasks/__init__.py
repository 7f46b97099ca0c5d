"""Evaluation on tasks: questions of files, asked of a model, and what came of it."""
