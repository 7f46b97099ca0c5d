"""`lumina adapters`: list adapters, merge them into a model, take them out, convert.

The sub-commands are the files of `lumina.cli.adapter_commands`; see
`lumina.cli.groups`.
"""

GROUP = "lumina.cli.adapter_commands"
"""The sub-commands of `lumina adapters`, a file each; see `lumina.cli.groups`."""
