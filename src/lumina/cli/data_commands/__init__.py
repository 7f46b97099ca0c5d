"""The sub-commands of `lumina data`, a file each; see `lumina.cli.groups`."""
