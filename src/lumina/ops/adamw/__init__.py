"""One AdamW update: a plain reference, and one pass over memory in Triton."""
