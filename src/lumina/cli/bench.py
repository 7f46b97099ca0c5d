"""`lumina bench`: measure parts of Lumina on this machine.

The sub-commands are the files of `lumina.cli.bench_commands`; see `lumina.cli.groups`.
"""

GROUP = "lumina.cli.bench_commands"
