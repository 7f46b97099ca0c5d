"""The experience store: what earlier runs were, and what came of their decisions."""
