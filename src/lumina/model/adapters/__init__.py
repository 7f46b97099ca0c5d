"""Adapters: small tensors that train beside the frozen matrices of a model."""
