"""`lumina context`: how far back a model reads.

The sub-commands are the files of `lumina.cli.context_commands`; see
`lumina.cli.groups`.
"""

GROUP = "lumina.cli.context_commands"
