"""The kinds of model: what each adds to a plain transformer, in a file of its own."""
