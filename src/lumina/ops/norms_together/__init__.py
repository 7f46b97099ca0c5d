"""RMSNorm of one tensor, or of queries and keys at once, by one kernel."""
