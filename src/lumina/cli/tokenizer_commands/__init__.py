"""The sub-commands of `lumina tokenizer`, a file each; see `lumina.cli.groups`."""
