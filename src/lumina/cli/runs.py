"""`lumina runs`: list, show, compare, tag and remove runs, and write their reports.

The sub-commands are the files of `lumina.cli.run_commands`; see `lumina.cli.groups`.
"""

GROUP = "lumina.cli.run_commands"
"""The sub-commands of `lumina runs`, a file each."""

DEFAULT = "list"
"""`lumina runs FOLDER` lists the runs below a folder."""
