"""`lumina data`: look at data and judge it, without training on it.

The sub-commands are the files of `lumina.cli.data_commands`; see `lumina.cli.groups`.
"""

GROUP = "lumina.cli.data_commands"
