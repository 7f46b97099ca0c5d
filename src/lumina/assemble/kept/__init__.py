"""How activations are kept between the forward and the backward pass."""
