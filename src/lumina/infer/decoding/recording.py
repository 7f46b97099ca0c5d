"""A step recorded as a CUDA graph and run again: one launch for all its kernels."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch

from lumina.errors import LuminaError
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.decoding.step import Step
from lumina.infer.kv.static_cache import StaticCache

EAGER = "eager"
RECORDED = "cuda graph"


class _Recorder:
    """Records work on a stream of its own, or says why it does not.

    Args:
        device: of what is run.
        settings: whether to record.
        why: nothing can be recorded, whatever the device is; "": nothing is against it.

    Attributes:
        path: how work runs: "eager" or "cuda graph", and why it is eager on CUDA.
        records: whether there are recordings.
    """

    def __init__(
        self, device: torch.device, settings: StepSettings, why: str = ""
    ) -> None:
        if settings.graph == "off":
            why = "switched off"
        elif device.type != "cuda":
            why = f"the model is on {device.type}"
        if why and settings.graph == "on":
            raise _unrecorded(why)
        on_cuda = device.type == "cuda" and settings.graph != "off"
        self.path = RECORDED if not why else f"{EAGER} ({why})" if on_cuda else EAGER
        self.records = not why
        self._settings = settings
        if self.records:
            self._stream = torch.cuda.Stream(device)
            self._pool = torch.cuda.graph_pool_handle()

    def _warmed(self, work: Callable[[], None]) -> None:
        """Do the work as it is, on the stream that records."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            work()
        torch.cuda.current_stream().wait_stream(self._stream)

    def _recorded(self, work: Callable[[], None]) -> torch.cuda.CUDAGraph | None:
        """The work as a graph; None, and why, where it waits for the device."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(
                graph,
                pool=self._pool,
                stream=self._stream,
                capture_error_mode="thread_local",
            ):
                work()
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            why = f"the model waits for the device: {str(error).splitlines()[0]}"
            if self._settings.graph == "on":
                raise _unrecorded(why) from error
            self.records, self.path = False, f"{EAGER} ({why})"
            return None
        return graph


class Runner(_Recorder):
    """Runs a step, from a recording where there can be one.

    The first step runs as it is, on the stream that records: kernels are built and
    memory is taken. The second is recorded, and run from then on. A recording reads a
    bounded span of the cache, so a longer one takes its place when the cache has grown.

    Args:
        step: what to run.
        settings: whether to record.
        device: of the network.

    Attributes:
        path: how steps run: "eager" or "cuda graph", and why it is eager on CUDA.
    """

    def __init__(
        self, step: Step, settings: StepSettings, device: torch.device
    ) -> None:
        self.step = step
        super().__init__(device, settings, self._why_not())
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._warm = False

    def run(self) -> None:
        """One step of every row."""
        self.step.refill()
        if not self.records:
            self.step.run()
            return
        cache = self.step.cache
        assert isinstance(cache, StaticCache)
        span = cache.span_for(cache.length + self.step.columns)
        graph = self._graphs.get(span)
        if graph is None and self._warm and (graph := self._of_span(span)):
            self._graphs[span] = graph
        if graph is not None:
            graph.replay()
            cache.advance(self.step.columns)
            return
        cache.span = span
        try:
            if not self.records:  # recording has failed
                self.step.run()
                return
            self._warmed(self.step.run)
            self._warm = True
        finally:
            cache.span = 0

    def _of_span(self, span: int) -> torch.cuda.CUDAGraph | None:
        """The step over this many slots as a graph; None where it waits."""
        cache = self.step.cache
        assert isinstance(cache, StaticCache)
        counted = cache.counted
        cache.span = span
        try:
            return self._recorded(self.step.run)
        finally:
            # Recording computes nothing: the columns it counted are not there.
            cache.counted = counted
            cache.span = 0

    def _why_not(self) -> str:
        """Why the step cannot be recorded on any device; "" where it can."""
        if not isinstance(self.step.cache, StaticCache):
            return "the cache has no fixed shape"
        if self.step.apart:
            return "rows go one by one, each over its own length"
        return ""


class Recordings(_Recorder):
    """Graphs of one function, by what its shapes depend on.

    The first call with a key runs the function as it is, so that kernels are built;
    the second records it, and it is run from the recording from then on.

    Args:
        device: of what is run.
        settings: whether to record.

    Attributes:
        path: how calls run: "eager" or "cuda graph", and why it is eager on CUDA.
        records: whether there are recordings.
    """

    def __init__(self, device: torch.device, settings: StepSettings, why: str = ""):
        super().__init__(device, settings, why)
        self._graphs: dict[Hashable, torch.cuda.CUDAGraph | None] = {}

    def run(self, key: Hashable, work: Callable[[], None]) -> None:
        """Do the work, which is the same for the same key but for what tensors hold."""
        if not self.records:
            work()
            return
        if key not in self._graphs:
            self._warmed(work)
            self._graphs[key] = None
            return
        graph = self._graphs[key] or self._recorded(work)
        if graph is None:
            work()
            return
        self._graphs[key] = graph
        graph.replay()


def _unrecorded(why: str) -> LuminaError:
    return LuminaError(
        "E002",
        f"the step cannot be recorded as a CUDA graph: {why}",
        "leave --cuda-graph on out",
    )
