"""`lumina tokenizer`: make, look at, compare and extend tokenizers.

The sub-commands are the files of `lumina.cli.tokenizer_commands`; see
`lumina.cli.groups`.
"""

GROUP = "lumina.cli.tokenizer_commands"
"""The sub-commands of `lumina tokenizer`, a file each; see `lumina.cli.groups`."""
