"""Training steps captured once and launched as a whole."""
