"""The State of a run, and its durable form on disk."""
