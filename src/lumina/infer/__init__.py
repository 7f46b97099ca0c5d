"""Using a trained model: loading, generation with a cache, conversation."""
