"""Memory that is held without being used goes back to the system."""

from __future__ import annotations

import gc

import torch


def empty_cache() -> None:
    """Give back what the allocator of the device holds without using it."""
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
