"""Tries features on this machine before a run relies on them."""
