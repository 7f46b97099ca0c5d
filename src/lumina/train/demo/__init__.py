"""The demonstration: from this Python's own library to a model that answers."""
