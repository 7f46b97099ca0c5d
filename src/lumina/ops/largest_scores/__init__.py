"""The largest attention score of every head: plain, and as a kernel in Triton."""
