"""`lumina profile data`: the seconds of each stage from files to batches."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from lumina.config import Config
from lumina.data.documents import read_documents
from lumina.data.loss_rule import loss_rule
from lumina.data.packing import best_fit, cut
from lumina.data.prefetch import Prefetcher
from lumina.data.readers.reader import Document
from lumina.data.reading_options import reading_options
from lumina.data.split import document_bytes
from lumina.data.tokenise import encode_documents
from lumina.data.tokenizer import Tokenizer
from lumina.observe.console import Console
from lumina.plan.time_estimate import estimate_here
from lumina.train.preparation import Preparation
from lumina.train.profiling.session import prepared_for

SAMPLE_BYTES = 64 * 2**20
"""Text that is held in memory for the stages that are measured one by one."""

LONGEST_STEP = 1.0
"""Seconds of a step that is waited for at most; data that is slower shows anyway."""


@dataclass(frozen=True)
class Stage:
    """One stage on the way from files to batches.

    Attributes:
        name: what is done.
        seconds: how long it took.
        amount: of what it gave; None where that is not known.
        unit: what the amount is of.
        note: what else there is to know.
    """

    name: str
    seconds: float
    amount: float | None
    unit: str
    note: str = ""

    @property
    def rate(self) -> float | None:
        """The amount of a second."""
        return None if self.amount is None else self.amount / max(self.seconds, 1e-9)


@dataclass
class DataProfile:
    """What was measured.

    Attributes:
        stages: in the order of the data.
        step_seconds: of a step that the batches were made for.
        step_why: where that is from.
        made_seconds: of the batches of each step, when nothing else is done.
        waited_seconds: what each step waited for, when steps take as long as that.
        step_tokens: of a step, padding included.
        what_to_try: in plain English.
        interrupted: whether it was ended early.
    """

    stages: list[Stage] = field(default_factory=list)
    step_seconds: float = 0.0
    step_why: str = ""
    made_seconds: list[float] = field(default_factory=list)
    waited_seconds: list[float] = field(default_factory=list)
    step_tokens: int = 0
    what_to_try: list[str] = field(default_factory=list)
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        rates = [{"per_second": stage.rate} for stage in self.stages]
        facts = asdict(self)
        for stage, rate in zip(facts["stages"], rates, strict=True):
            stage.update(rate)
        return facts


def profile_data(
    config: Config,
    *,
    steps: int,
    seconds: float,
    step_seconds: float | None,
    console: Console,
    stopped: Callable[[], bool],
    tell: Callable[[str], None],
) -> DataProfile:
    """Measure every stage of a configuration's data; nothing is trained.

    Args:
        config: the settings of the training.
        steps: steps whose batches are made, and waited for.
        seconds: for which files are read at most.
        step_seconds: of a step; default: as the plan expects.
        console: shows what preparing the data shows.
        stopped: asked between stages and steps.
        tell: shows a line of progress.
    """
    began = time.perf_counter()
    prepared = prepared_for(config, 2 * steps, console)
    took = time.perf_counter() - began
    plan = prepared.plan
    found = DataProfile(step_tokens=plan.global_batch_size * plan.spec.seq_length)
    found.step_seconds, found.step_why = _step(prepared, step_seconds)
    stages: list[Callable[[], None]] = [
        lambda: _sampled_stages(prepared, found, seconds, stopped),
        lambda: found.stages.append(_preparation(prepared, took)),
        lambda: _batches(prepared, found, steps, stopped),
        lambda: _waits(prepared, found, steps, stopped),
    ]
    for stage in stages:
        if not stopped():
            stage()
    found.interrupted = stopped()
    found.what_to_try = what_to_try(found, prepared.config)
    tell(f"{len(found.stages)} stages are measured")
    return found


def _step(prepared: Preparation, asked: float | None) -> tuple[float, str]:
    """Seconds of a step, and where they are from."""
    if asked is not None:
        return asked, "as asked for"
    plan, machine = prepared.plan, prepared.environment
    expected = estimate_here(plan, machine)
    if expected is None:
        return 0.0, "not known: as fast as batches come"
    return expected.likely, "measured" if expected.measured else "assumed"


def _sampled_stages(
    prepared: Preparation,
    found: DataProfile,
    seconds: float,
    stopped: Callable[[], bool],
) -> None:
    """Reading, making tokens and packing of a part of the text, one by one."""
    config, tokenizer = prepared.config, prepared.data.tokenizer
    if tokenizer is None or config.data.data_kind or not config.data.train_data:
        return  # no text, or a plug-in's
    began = time.perf_counter()
    documents = list(_within(_documents(config), began + seconds, stopped))
    took = time.perf_counter() - began
    size = sum(map(document_bytes, documents))
    note = f"{len(documents):,} documents"
    found.stages.append(Stage("read", took, size / 1e6, "MB of text", note))
    if not documents or stopped():
        return
    lengths = _tokens(config, tokenizer, documents, found)
    began = time.perf_counter()
    starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    _, pieces = cut(starts, prepared.plan.spec.seq_length)
    rows = best_fit(pieces, prepared.plan.spec.seq_length)
    took = time.perf_counter() - began
    count = int(rows.max()) + 1 if len(rows) else 0
    found.stages.append(Stage("pack", took, sum(lengths), "tokens", f"{count:,} rows"))


def _documents(config: Config) -> Iterator[Document]:
    """The documents as a run reads them."""
    return read_documents(
        config.data.train_data,
        errors=config.data.data_errors,
        **reading_options(config.data).given(),
    )


def _within(
    documents: Iterator[Document], until: float, stopped: Callable[[], bool]
) -> Iterator[Document]:
    """Documents until the time is over, the memory is full, or Ctrl-C."""
    held = 0
    for document in documents:
        yield document
        held += document_bytes(document)
        if held > SAMPLE_BYTES or time.perf_counter() > until or stopped():
            return


def _tokens(
    config: Config,
    tokenizer: Tokenizer,
    documents: list[Document],
    found: DataProfile,
) -> list[int]:
    """The lengths of documents in tokens, with as many threads as a run has."""
    threads = threads_for(config.system.num_workers)
    began = time.perf_counter()
    encoded = encode_documents(
        ((False, document) for document in documents),
        tokenizer,
        loss_on=loss_rule(config.data),
        threads=threads,
        on_skip=lambda skipped: None,
    )
    lengths = [len(one.ids) for one in encoded]
    took = time.perf_counter() - began
    note = f"{threads} thread{'s' if threads != 1 else ''}"
    found.stages.append(Stage("make tokens", took, sum(lengths), "tokens", note))
    return lengths


def threads_for(workers: int | None) -> int:
    """Threads that make tokens, where `--num-workers` says so or not."""
    return os.cpu_count() or 1 if workers is None else workers


def _preparation(prepared: Preparation, seconds: float) -> Stage:
    """All that came before the first batch, with what the cache had."""
    stats = prepared.data.stats
    tokens = stats.get("train_tokens")
    note = f"cache: {stats['cache']}" if "cache" in stats else ""
    name = "prepare all of it" if tokens is not None else "prepare the beginning"
    return Stage(name, seconds, tokens, "tokens", note)


def _batches(
    prepared: Preparation, found: DataProfile, steps: int, stopped: Callable[[], bool]
) -> None:
    """Make the batches of some steps, with nothing beside."""
    cursor = prepared.stream.start
    for _ in range(steps):
        if stopped():
            break
        began = time.perf_counter()
        batches = prepared.stream.step(
            cursor, micro_batch_size=prepared.plan.micro_batch_size
        )
        if batches is None:
            break
        found.made_seconds.append(time.perf_counter() - began)
        cursor = batches.cursor
    count = len(found.made_seconds)
    tokens = float(count * found.step_tokens)
    note = f"{count} steps"
    made = sum(found.made_seconds)
    found.stages.append(Stage("make batches", made, tokens, "tokens", note))


def _waits(
    prepared: Preparation, found: DataProfile, steps: int, stopped: Callable[[], bool]
) -> None:
    """What steps wait for their data while others are made in the background."""
    config = prepared.config
    feed = Prefetcher(
        prepared.stream,
        prepared.stream.start,
        micro_batch_size=prepared.plan.micro_batch_size,
        depth=config.loading.prefetch_factor,
    )
    try:
        for _ in range(steps):
            batches, waited = feed.next()
            if batches is None or stopped():
                break
            found.waited_seconds.append(waited)
            time.sleep(min(found.step_seconds, LONGEST_STEP))
    finally:
        feed.close()
    # The first step finds nothing made ahead; a run has that once.
    later = found.waited_seconds[1:] or found.waited_seconds
    note = f"steps of {found.step_seconds * 1000:.3g} ms ({found.step_why})"
    found.stages.append(Stage("wait", sum(later), float(len(later)), "steps", note))


def what_to_try(found: DataProfile, config: Config) -> list[str]:
    """What the figures suggest."""
    advice = []
    later = found.waited_seconds[1:]
    made = statistics.median(found.made_seconds) if found.made_seconds else 0.0
    waited = statistics.median(later) if later else 0.0
    if waited > 0.01 * max(found.step_seconds, 1e-9) and made > found.step_seconds:
        advice.append(
            f"batches of a step take {made:.3g} s to make, and a step "
            f"{found.step_seconds:.3g} s: data is the limit; `lumina data prepare` "
            "makes tokens once, and --num-workers more of them at a time"
        )
    elif waited > 0.01 * max(found.step_seconds, 1e-9) and found.step_seconds:
        advice.append(
            f"steps wait although batches are made in time: raise --prefetch-factor "
            f"(now {config.loading.prefetch_factor})"
        )
    slow = {stage.name: stage.seconds for stage in found.stages[:3]}
    if slow.get("read", 0.0) > slow.get("make tokens", float("inf")):
        advice.append(
            "reading takes longer than making tokens: keep the files on a faster disk, "
            "or in fewer and larger files; .zst is read faster than .gz or .xz"
        )
    return advice or ["nothing stands out: data is ready before a step needs it"]
