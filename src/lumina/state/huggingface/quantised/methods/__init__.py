"""What wrote such folders, one file each."""
