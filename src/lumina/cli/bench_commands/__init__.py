"""The sub-commands of `lumina bench`, a file for each."""
