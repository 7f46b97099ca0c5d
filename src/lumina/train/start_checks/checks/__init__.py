"""The checks before a run, a file each."""
