"""Small steps on gradients between backward and the optimizer: one file for each."""
