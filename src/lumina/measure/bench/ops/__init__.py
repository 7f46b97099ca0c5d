"""Each op beside its reference: time, error, and the share of what is possible."""
