"""Health checks: what watches a run for trouble, and how healthy it is."""
