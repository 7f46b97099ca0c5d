"""Single-device modules: the shape of a model, its layers, the whole network."""
