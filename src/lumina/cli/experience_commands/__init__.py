"""The sub-commands of `lumina experience`, a file each."""
