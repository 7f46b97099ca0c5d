"""The checks: a file for each subject; the name of the file is in `check.OWN`."""
