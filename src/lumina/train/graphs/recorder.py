"""What records the work of a step and launches it again: the contract, and CUDA's.

A recorder runs a function once while it records it, and gives back something that does
the same device work again. The contract is that of CUDA graphs (Nguyen et al., 2019,
"Getting Started with CUDA Graphs"):

- what the function launches is recorded and not carried out;
- every launch reads and writes the same memory again: tensors that are to change from
  one launch to the next keep their place and get new values;
- a number of the host is a constant of the recording;
- what is random is drawn from the seed that the generator has at the launch;
- nothing may be read back to the host while recording.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor


class Recorded(Protocol):
    """A recording that can be launched any number of times."""

    def launch(self) -> None:
        """Do the recorded work again."""

    def close(self) -> None:
        """Release its memory."""


class Recorder(Protocol):
    """Makes recordings."""

    def aside(self) -> AbstractContextManager[Any]:
        """Around an ordinary run of what is to be recorded next."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Recorded, Tensor]:
        """Record a function.

        Args:
            work: launches device work, and returns a tensor of its results.

        Returns:
            The recording, and the tensor, which has a value after each launch.
        """


class CudaRecorder:
    """Records by CUDA graphs.

    The graphs of one recorder share the memory of what lives within a step, for no two
    of them run at a time and nothing of it outlives the step.

    Args:
        device: the GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool: Any = None

    def aside(self) -> AbstractContextManager[Any]:
        """On the stream of the recording, which autograd and cuBLAS remember."""
        return _OnStream(self._stream)

    def record(self, work: Callable[[], Tensor]) -> tuple[Recorded, Tensor]:
        """Capture a graph; memory that no tensor uses is given back before.

        A graph allocates for itself, and cannot use what the allocator keeps.
        """
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        graph = torch.cuda.CUDAGraph()
        # Threads that make batches may pin memory meanwhile.
        with torch.cuda.graph(
            graph,
            pool=self._pool,
            stream=self._stream,
            capture_error_mode="thread_local",
        ):
            result = work()
        if self._pool is None:
            self._pool = graph.pool()
        return _CudaRecorded(graph), result


class _OnStream:
    """On another stream, which waits for the present one, and the other way round."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        self._stream = stream
        self._inside = torch.cuda.stream(stream)

    def __enter__(self) -> None:
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        self._inside.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._inside.__exit__(*error)
        torch.cuda.current_stream(self._stream.device).wait_stream(self._stream)


class _CudaRecorded:
    """A captured graph."""

    def __init__(self, graph: torch.cuda.CUDAGraph) -> None:
        self._graph = graph

    def launch(self) -> None:
        """On the current stream."""
        self._graph.replay()

    def close(self) -> None:
        """The memory goes back to its pool."""
        self._graph.reset()
