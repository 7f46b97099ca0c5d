"""A router's logits: float32 products of half-precision activations."""
