"""Lumina's own ways of being parallel: one file each, found by `lumina.parallel.table`.

No module of this package imports torch when it is imported: the planner reads them.
"""
