"""How good data is: checks of it, a report, and files without what was found."""
