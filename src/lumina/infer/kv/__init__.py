"""Where and how the keys and values of generation are kept."""
