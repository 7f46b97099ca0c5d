"""SwiGLU's product (Shazeer, 2020, arXiv:2002.05202): silu(gate) * up."""
