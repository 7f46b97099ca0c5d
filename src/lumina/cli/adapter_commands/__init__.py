"""The sub-commands of `lumina adapters`, a file each."""
