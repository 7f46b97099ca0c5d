"""Recovery inside a process: snapshots, and going back to one of them."""
