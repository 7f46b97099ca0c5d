"""Where the time and the memory of a training go, measured without a run."""
