"""`lumina pretests`: try features on this machine, and see what was found before.

The sub-commands are the files of `lumina.cli.pretest_commands`; see
`lumina.cli.groups`.
"""

GROUP = "lumina.cli.pretest_commands"
