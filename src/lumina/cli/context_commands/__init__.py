"""The sub-commands of `lumina context`."""
