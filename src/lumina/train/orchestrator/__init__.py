"""The orchestrator: from findings to decisions, and from those to their outcomes."""
