"""Memory that is held without being used goes back to the system."""

from __future__ import annotations

import gc

import torch


def empty_cache() -> None:
    """Give back what the allocator of the device holds without using it.

    Called between steps. What a backward pass has left that broke off goes first, and
    the workspaces of cuBLAS, which the next product takes again: 32 MiB for each thread
    that has computed on an H200.
    """
    forget_broken_backward()
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()


def forget_broken_backward() -> None:
    """Let torch drop the branches that a backward pass has not come to.

    Where one raises, such branches wait in a queue of the thread, with all activations
    that they need, until the thread goes backward again.
    """
    with torch.enable_grad():
        torch.zeros((), requires_grad=True).mul(1).backward()
