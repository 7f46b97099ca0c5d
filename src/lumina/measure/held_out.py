"""Loss on held-out batches: the same number on any number of ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lumina.batch import Batch
from lumina.data.packed_stream import eval_batches
from lumina.data.packing import pack
from lumina.data.store import TokenStore
from lumina.memory_shortage import shortage_code, shortage_text
from lumina.model.host_table import device_of
from lumina.model.kinds.tasks import STATISTICS as TASK_STATISTICS
from lumina.parallel.mesh import Mesh, RankGroup

Score = Callable[[NDArray[np.uint8], NDArray[np.float32]], dict[str, float]]
"""From the answers [R, S] and halting logits [R] of all rows to shares."""


OnRows = Callable[[int, int], None]
"""Called before every batch with the rows done, and the rows in all."""

BATCH_TOKENS = 16384
"""Positions of a forward pass where no batch size is given."""

_AGREE_EVERY = 4
"""Batches after which ranks agree whether to stop; it takes a small exchange."""


class EvaluationShortError(MemoryError):
    """An evaluation lacked memory on some rank; every rank left it at the same place.

    Attributes:
        code: E201 of a device, E202 of the host.
    """

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class EvaluationStoppedError(Exception):
    """A request stopped an evaluation; every rank left it at the same batch."""


@dataclass(frozen=True)
class HeldOut:
    """An evaluation's outcome.

    Attributes:
        loss: mean cross entropy over counted tokens, in nats.
        tokens: how many were counted.
        accuracy: share whose most likely token was right (of puzzles, the mean share
            of right positions); None where the objective does not count them.
        exact: share of puzzles that were right everywhere; None for text.
        segments: mean segments of a token, for models that halt by token; else None.
        attempts: the shares that `score` computes from the answers, where there is one.
        tasks: mean loss of each task that had tokens, in a model of several.
        sources: mean loss of each source that had tokens, in a mixture of several, and
            its accuracy.
    """

    loss: float
    tokens: int
    accuracy: float | None = None
    exact: float | None = None
    segments: float | None = None
    attempts: dict[str, float] = field(default_factory=dict)
    tasks: dict[str, float] = field(default_factory=dict)
    sources: dict[str, tuple[float, float | None]] = field(default_factory=dict)

    @property
    def metrics(self) -> dict[str, float | None]:
        """The keys that it adds to the metrics row of its step."""
        row: dict[str, float | None] = {"eval_loss": self.loss if self.tokens else None}
        row |= {f"task.{name}.eval_loss": loss for name, loss in self.tasks.items()}
        for name, (loss, accuracy) in self.sources.items():
            row[f"source.{name}.eval_loss"] = loss
            if accuracy is not None:
                row[f"source.{name}.eval_accuracy"] = accuracy
        shares = {
            "eval_accuracy": self.accuracy,
            "eval_exact_accuracy": self.exact,
            "eval_mean_steps": self.segments,
        }
        row |= {key: value for key, value in shares.items() if value is not None}
        return row | {f"eval_{name}": x for name, x in self.attempts.items()}

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700.0))

    def bits_per_byte(self, size: int) -> float:
        """Total bits over the bytes of the text those tokens came from."""
        return self.loss * self.tokens / math.log(2) / size


def _judged(
    score: Score, answers: list[tuple[Tensor, Tensor]], data: RankGroup
) -> dict[str, float]:
    """What a judge says of all ranks' answers, put in the order of the rows."""
    whole = [
        data.stack(torch.stack(part)).transpose(0, 1).flatten(0, 2).cpu().numpy()
        for part in zip(*answers, strict=True)
    ]
    return score(*whole)


@torch.no_grad()
def held_out_loss(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    mesh: Mesh | None = None,
    score: Score | None = None,
    tasks: Sequence[str] = (),
    sources: Sequence[str] = (),
    watched: Sequence[str] = (),
    stop: Callable[[], bool] | None = None,
    parts: int = 1,
    meets: bool = False,
) -> HeldOut:
    """Mean loss of `model` over `batches`, in evaluation mode.

    Args:
        model: `batch -> (LossSums, aux)`.
        batches: this rank's share, as many as every other rank's, because sharded
            models meet in every forward; see `lumina.data.packed_stream.eval_batches`.
        device: where the model is.
        mesh: the ranks that share the batches; by default one process alone.
        score: judges the answers to puzzles, in the order of the rows; ranks took
            turns with the batches.
        tasks: names of the tasks of a model of several.
        sources: names of the sources of a mixture; each batch is of one of them.
        watched: sources that do not count in the loss of all.
        stop: called between batches: whether to leave. Ranks agree on the answer, so
            that none of them waits in a forward for one that has left.
        parts: a forward takes a batch in so many parts, which need less memory.
        meets: ranks meet in every forward, so that one that lacks memory there cannot
            wait for the others.

    Raises:
        EvaluationShortError: a forward lacked memory on any rank.
        EvaluationStoppedError: `stop` said so on any rank.
    """
    mesh = mesh or Mesh()
    everyone = mesh.everyone
    agree_every = 1 if everyone.size == 1 else _AGREE_EVERY
    answers: list[tuple[Tensor, Tensor]] = []
    # A line of sums for each source, or one line.
    table = torch.zeros(max(len(sources), 1), 5, dtype=torch.float64, device=device)
    by_task: Tensor | None = None
    puzzles = judged = False
    short: tuple[str, str] | None = None  # why this rank has left out forwards
    was_training = model.training
    model.eval()
    try:
        for number, batch in enumerate(batches):
            if stop is not None and number % agree_every == 0 and everyone.any_(stop()):
                raise EvaluationStoppedError
            # Read from the batch on the CPU, so that nothing waits for the device.
            ids = batch.source_ids if sources else None
            sums = table[0 if ids is None else int(ids[0])]
            given: list[tuple[Tensor, Tensor]] = []
            forwards = [batch] if parts == 1 else batch.parts(parts)
            for part in forwards if short is None else ():
                try:
                    losses, aux = model(part.to(device))
                except Exception as error:
                    code = shortage_code(error)
                    if code is None or (meets and everyone.size > 1):
                        raise
                    short = shortage_text(error), code
                    break
                found = aux.get(TASK_STATISTICS)
                if found is not None:
                    by_task = found.double() if by_task is None else by_task + found
                sums[0] += losses.loss_sum
                sums[1] += losses.weight_sum
                if "correct" in losses.terms:
                    judged = True
                    sums[2] += losses.terms["correct"]
                if "exact" in losses.terms:
                    puzzles = True
                    sums[3] += losses.terms["exact"]
                if "segments" in losses.terms:
                    sums[4] += losses.terms["segments"]
                if score is not None:
                    answer = losses.terms["answers"].to(torch.uint8)
                    given.append((answer, losses.terms["q_halt"].float()))
            if given:
                answers.append(_rows_of(given))
    finally:
        model.train(was_training)
    if everyone.any_(short is not None):
        raise EvaluationShortError(*(short or ("another rank has no memory", "E201")))
    mesh.tokens.sum_(table)
    counted = [n for n, name in enumerate(sources or ("",)) if name not in watched]
    loss, tokens, correct, exact, segments = table[counted].sum(0).tolist()
    return HeldOut(
        loss=loss / tokens if tokens else float("nan"),
        tokens=round(tokens),
        accuracy=correct / tokens if tokens and judged else None,
        exact=exact / tokens if tokens and puzzles else None,
        segments=segments / tokens if tokens and segments else None,
        attempts={} if score is None else _judged(score, answers, mesh.data),
        tasks={} if by_task is None else _by_name(tasks, mesh.tokens.sum_(by_task)),
        sources=_by_source(sources, table, judged),
    )


def _rows_of(parts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The answers of a whole batch, from those of its parts."""
    if len(parts) == 1:
        return parts[0]
    answers, halts = zip(*parts, strict=True)
    return torch.cat(answers), torch.cat(halts)


def _by_source(
    names: Sequence[str], table: Tensor, judged: bool
) -> dict[str, tuple[float, float | None]]:
    """Each source's mean loss and share of right tokens, where it had any token."""
    return {
        name: (loss / tokens, correct / tokens if judged else None)
        for name, (loss, tokens, correct, *_) in zip(
            names, table.tolist(), strict=False
        )
        if tokens
    }


def _by_name(names: Sequence[str], statistics: Tensor) -> dict[str, float]:
    """Each task's mean loss, from the sums over all ranks."""
    return {
        name: loss / tokens
        for name, (loss, tokens, _) in zip(names, statistics.tolist(), strict=True)
        if tokens
    }


def loss_of_text(
    network: nn.Module,
    store: TokenStore,
    length: int,
    size: int | None = None,
    on_rows: OnRows | None = None,
) -> HeldOut:
    """The loss of every token of a text that bears loss, on the network's device.

    Args:
        network: in evaluation mode or not; as for `held_out_loss`.
        store: the text.
        length: positions of a row.
        size: rows of a batch; None: as many as `BATCH_TOKENS` allows.
        on_rows: called before every batch with the rows done, and the rows in all.
    """
    rows = len(pack(store, length))
    size = size or max(BATCH_TOKENS // length, 1)

    def batches() -> Iterator[Batch]:
        for number, batch in enumerate(eval_batches(store, length, size)):
            if on_rows is not None:
                on_rows(number * size, rows)
            yield batch

    device = device_of(network)
    return held_out_loss(network, batches(), device=device)
