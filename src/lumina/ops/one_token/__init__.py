"""What a transformer does to one token of each row, in few kernels."""
