"""What a model costs: operations and bytes, with a file for each kind of model."""
