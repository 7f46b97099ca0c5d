"""Trainers in the benchmark of adaptive training, and what is done to them."""
