"""How fast a model answers: time to the first token, tokens a second, memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from lumina.errors import LuminaError
from lumina.infer.decoding.program import measured_products
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.decoding.workspace import Workspace
from lumina.infer.generate import Decoding, context_limit
from lumina.infer.kv.settings import CacheSettings, place_of
from lumina.infer.sampling import Sampling
from lumina.model.kinds.table import why_not
from lumina.model.network import Network


@dataclass(frozen=True)
class Speed:
    """Answers of one batch size to prompts of one length.

    Attributes:
        batch_size: prompts side by side.
        prompt_tokens: of each prompt.
        new_tokens: of each answer.
        first_seconds: of each round: from the prompts to their first tokens.
        rate: of each round: tokens a second of all rows together, after the first.
        memory_bytes: most that the device held, weights included; on the CPU what the
            process held at the end. None where nothing was measured.
        problem: why nothing was measured; "" where it was.
        path: how steps ran; see `Decoding.path`.
    """

    batch_size: int
    prompt_tokens: int
    new_tokens: int
    first_seconds: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    memory_bytes: int | None = None
    problem: str = ""
    path: str = ""

    @property
    def first(self) -> float | None:
        """The median time to the first token."""
        return statistics.median(self.first_seconds) if self.first_seconds else None

    @property
    def tokens_per_second(self) -> float | None:
        """The median rate."""
        return statistics.median(self.rate) if self.rate else None

    @property
    def prompt_rate(self) -> float | None:
        """Prompt tokens a second, of all rows together, until the first token."""
        if not self.first_seconds:
            return None
        return (
            self.batch_size * self.prompt_tokens / statistics.median(self.first_seconds)
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {
            "first": self.first,
            "tokens_per_second": self.tokens_per_second,
            "prompt_rate": self.prompt_rate,
        }


def measure_generation(
    network: Network,
    batch_sizes: Iterable[int],
    prompt_lengths: Iterable[int],
    *,
    new_tokens: int,
    rounds: int,
    settings: CacheSettings | None = None,
    stepping: StepSettings | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Speed]:
    """Measure every batch size with every length, one after the other.

    Prompts are random tokens, and every answer is as long as is asked for. What takes
    more memory than there is, or more context than the model sees, is reported as such
    and does not end the measurement.

    Args:
        network: on the device and in the type to measure.
        batch_sizes: prompts side by side.
        prompt_lengths: tokens of each prompt.
        new_tokens: tokens of each answer, two at least.
        rounds: how often each is measured, after one round that does not count.
        settings: how keys and values are kept.
        stepping: how steps are run.
        stopped: asked between rounds; once true, what was measured is given.
    """
    lengths = list(prompt_lengths)
    for batch_size in batch_sizes:
        for length in lengths:
            if stopped():
                return
            yield _measured(
                Case(network, batch_size, length, new_tokens, settings, stepping),
                rounds,
                stopped,
            )


@dataclass(frozen=True)
class Case:
    """What is measured: answers of one batch size to prompts of one length."""

    network: Network
    batch_size: int
    prompt_tokens: int
    new_tokens: int
    settings: CacheSettings | None = None
    stepping: StepSettings | None = None


def _measured(case: Case, rounds: int, stopped: Callable[[], bool]) -> Speed:
    found = Speed(case.batch_size, case.prompt_tokens, case.new_tokens)
    limit = context_limit(case.network)
    if limit and case.prompt_tokens + case.new_tokens > limit:
        return replace(found, problem=f"the model sees {limit:,} tokens in all")
    device = place_of(case.network)
    cuda = device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    workspace, path = Workspace(), ""
    try:
        stepping = case.stepping or StepSettings()
        if stepping.kernels != "plain" and not stepping.batch_invariant:
            measured_products(case.network, case.batch_size)
        for turn in range(rounds + 1):
            if stopped() and found.rate:
                break
            first, rate, path = _timed(case, workspace)
            if turn:
                found.first_seconds.append(first)
                found.rate.append(rate)
    except torch.OutOfMemoryError:
        torch.cuda.empty_cache()
        fresh = Speed(case.batch_size, case.prompt_tokens, case.new_tokens)
        return replace(fresh, problem="out of memory")
    return replace(found, memory_bytes=_memory(device), path=path)


def _timed(case: Case, workspace: Workspace) -> tuple[float, float, str]:
    """(seconds to the first tokens, tokens a second afterwards, how steps ran).

    The tokens come to the host, so that the clock needs no other waiting for the
    device. Between the first tokens and the clock's start no step is begun.
    """
    generator = torch.Generator().manual_seed(case.prompt_tokens)
    shape = (case.batch_size, case.prompt_tokens)
    vocabulary = case.network.spec.vocab_size
    prompts = torch.randint(0, vocabulary, shape, generator=generator)
    began = time.perf_counter()
    decoding = Decoding(
        case.network,
        prompts.tolist(),
        Sampling(temperature=0),
        max_new_tokens=case.new_tokens,
        settings=case.settings,
        stepping=case.stepping,
        workspace=workspace,
    )
    decoding.step()
    first = time.perf_counter()
    for _ in decoding:
        pass
    seconds = time.perf_counter() - first
    rate = case.batch_size * (case.new_tokens - 1) / max(seconds, 1e-9)
    return first - began, rate, decoding.path


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    import psutil

    return int(psutil.Process().memory_info().rss)


def check_amounts(
    batch_sizes: Iterable[int],
    prompt_lengths: Iterable[int],
    new_tokens: int,
    rounds: int,
) -> None:
    """Refuse amounts that measure nothing.

    Raises:
        LuminaError: E005.
    """
    least = {
        "batch-sizes": (list(batch_sizes), 1),
        "sequence-lengths": (list(prompt_lengths), 1),
        "new-tokens": ([new_tokens], 2),
        "rounds": ([rounds], 1),
    }
    for name, (values, smallest) in least.items():
        if not values:
            raise LuminaError("E005", f"{name} names nothing", "such as 1,4,8")
        if min(values) < smallest:
            raise LuminaError(
                "E005", f"{name} has {min(values)}", f"give {smallest} or more"
            )


def decoding_floor(network: Network, rows: int, bandwidth: float) -> float | None:
    """Tokens a second of this many rows if only the weights were read, once a token.

    The embedding table counts where it is the head, too. None for models of which a
    token does not read every weight once.

    Args:
        network: the model.
        rows: continued side by side.
        bandwidth: bytes a second of the device.
    """
    spec = network.spec
    if why_not(spec, "decoding_floor") is not None:
        return None
    read = sum(p.numel() * p.element_size() for p in network.parameters())
    if not spec.tie_embeddings:
        table = network.backbone.embedding.weight
        read -= table.numel() * table.element_size()
    return rows * bandwidth / read
