"""The command `lumina`: one file per command; parse, call, print."""
