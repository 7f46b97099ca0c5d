"""`lumina experience`: what is remembered of earlier runs.

The sub-commands are the files of `lumina.cli.experience_commands`; see
`lumina.cli.groups`.
"""

GROUP = "lumina.cli.experience_commands"
"""The sub-commands of `lumina experience`, a file each."""
