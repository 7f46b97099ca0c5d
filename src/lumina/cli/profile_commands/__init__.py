"""The sub-commands of `lumina profile`, a file each; see `lumina.cli.groups`."""
