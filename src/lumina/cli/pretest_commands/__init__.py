"""The sub-commands of `lumina pretests`, a file each; see `lumina.cli.groups`."""
