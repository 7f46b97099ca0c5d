"""The rungs of the ladder: a file each, named like its rung."""
