"""`lumina runs`: list the runs below a folder, and write their reports again.

The sub-commands are the files of `lumina.cli.run_commands`; see `lumina.cli.groups`.
"""

GROUP = "lumina.cli.run_commands"
"""The sub-commands of `lumina runs`, a file each; see `lumina.cli.groups`."""

DEFAULT = "list"
"""What `lumina runs` and `lumina runs FOLDER` mean."""
