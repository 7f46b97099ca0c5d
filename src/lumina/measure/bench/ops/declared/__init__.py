"""The ops that `lumina bench ops` measures, a file for each."""
