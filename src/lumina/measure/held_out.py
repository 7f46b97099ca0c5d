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
from lumina.model.interface import LossSums
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
        parts: a forward takes a batch in this many parts, which need less memory.
        meets: ranks meet in every forward, so that one that lacks memory there cannot
            wait for the others.

    Raises:
        EvaluationShortError: a forward lacked memory on any rank.
        EvaluationStoppedError: `stop` said so on any rank.
    """
    mesh = mesh or Mesh()
    everyone = mesh.everyone
    agree_every = 1 if everyone.size == 1 else _AGREE_EVERY
    sums = _Sums(len(sources), device)
    short: tuple[str, str] | None = None  # why this rank has left out forwards
    was_training = model.training
    model.eval()
    try:
        for number, batch in enumerate(batches):
            if stop is not None and number % agree_every == 0 and everyone.any_(stop()):
                raise EvaluationStoppedError
            if short is not None:
                continue  # as many batches as every other rank, without forwards
            forwards = [batch] if parts == 1 else batch.parts(parts)
            sums.begin_batch(batch)
            for part in forwards:
                try:
                    losses, aux = model(part.to(device))
                except Exception as error:
                    code = shortage_code(error)
                    if code is None or (meets and everyone.size > 1):
                        raise
                    short = shortage_text(error), code
                    break
                sums.add(losses, aux, answers_too=score is not None)
    finally:
        model.train(was_training)
    if everyone.any_(short is not None):
        raise EvaluationShortError(*(short or ("another rank has no memory", "E201")))
    return sums.held_out(mesh, score, tasks, sources, watched)


class _Sums:
    """What the forwards of an evaluation have added up to on this rank.

    Nothing of it is read on the host before `held_out`, so that no forward waits.

    Args:
        sources: how many sources there are; 0: the data is not a mixture.
        device: where the model is.
    """

    def __init__(self, sources: int, device: torch.device) -> None:
        # A line for each source, or one line: loss, tokens, correct, exact, segments.
        lines = max(sources, 1)
        self._table = torch.zeros(lines, 5, dtype=torch.float64, device=device)
        self._line = self._table[0]
        self._has_sources = sources > 0
        self._by_task: Tensor | None = None
        self._answers: list[list[tuple[Tensor, Tensor]]] = []
        self._puzzles = self._judged = False

    def begin_batch(self, batch: Batch) -> None:
        """The forwards that follow are those of a batch, which is on the CPU."""
        self._answers.append([])
        ids = batch.source_ids if self._has_sources else None
        self._line = self._table[0 if ids is None else int(ids[0])]

    def add(self, losses: LossSums, aux: dict[str, Tensor], answers_too: bool) -> None:
        """Add a forward.

        Args:
            losses: of the forward.
            aux: what else the model has counted in it.
            answers_too: keep the answers to puzzles, to be judged.
        """
        found = aux.get(TASK_STATISTICS)
        if found is not None:
            by_task = self._by_task
            self._by_task = found.double() if by_task is None else by_task + found
        line, terms = self._line, losses.terms
        line[0] += losses.loss_sum
        line[1] += losses.weight_sum
        if "correct" in terms:
            self._judged = True
            line[2] += terms["correct"]
        if "exact" in terms:
            self._puzzles = True
            line[3] += terms["exact"]
        if "segments" in terms:
            line[4] += terms["segments"]
        if answers_too:
            answer = terms["answers"].to(torch.uint8)
            self._answers[-1].append((answer, terms["q_halt"].float()))

    def held_out(
        self,
        mesh: Mesh,
        score: Score | None,
        tasks: Sequence[str],
        sources: Sequence[str],
        watched: Sequence[str],
    ) -> HeldOut:
        """The outcome over all ranks; arguments as of `held_out_loss`."""
        table, by_task = mesh.tokens.sum_(self._table), self._by_task
        counted = [n for n, name in enumerate(sources or ("",)) if name not in watched]
        loss, tokens, correct, exact, segments = table[counted].sum(0).tolist()
        answers = [_rows_of(given) for given in self._answers if given]
        return HeldOut(
            loss=loss / tokens if tokens else float("nan"),
            tokens=round(tokens),
            accuracy=correct / tokens if tokens and self._judged else None,
            exact=exact / tokens if tokens and self._puzzles else None,
            segments=segments / tokens if tokens and segments else None,
            attempts={} if score is None else _judged(score, answers, mesh.data),
            tasks={} if by_task is None else _by_name(tasks, mesh.tokens.sum_(by_task)),
            sources=_by_source(sources, table, self._judged),
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
