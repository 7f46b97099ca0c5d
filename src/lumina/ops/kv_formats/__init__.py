"""The number formats in which a cache keeps keys and values."""
