"""What the bytes of a file hold: one file for each format."""
