"""The sub-commands of `lumina checkpoints`, a file each."""
