"""`lumina profile`: where the time and the memory of a training go.

The sub-commands are the files of `lumina.cli.profile_commands`; see
`lumina.cli.groups`.
"""

GROUP = "lumina.cli.profile_commands"
