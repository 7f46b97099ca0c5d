"""`lumina checkpoints`: list the checkpoints of a run, check, compare and delete them.

The sub-commands are the files of `lumina.cli.checkpoint_commands`; see
`lumina.cli.groups`.
"""

GROUP = "lumina.cli.checkpoint_commands"
"""The sub-commands of `lumina checkpoints`, a file each; see `lumina.cli.groups`."""
