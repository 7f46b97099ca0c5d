"""AdamW with small moments in one pass over memory, in Triton."""
