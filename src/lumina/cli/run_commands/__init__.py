"""The sub-commands of `lumina runs`, a file each; see `lumina.cli.groups`."""
