"""Prepared data as rows: what a Plan wants to know of them, and their stream."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lumina.config import Config
from lumina.data.packing import pack
from lumina.data.prepare import Prepared
from lumina.data.puzzles import PreparedPuzzles, PuzzleStream
from lumina.data.store import TokenStore
from lumina.data.stream import BatchStream
from lumina.data.task_stream import TaskStream, task_sequence
from lumina.data.tasks import PreparedTasks
from lumina.plan.plan import Plan

AnyPrepared = Prepared | PreparedPuzzles | PreparedTasks
AnyStream = BatchStream | PuzzleStream | TaskStream


@dataclass(frozen=True)
class Rows:
    """Data of a run.

    Attributes:
        vocab_size: tokens that occur in it.
        per_epoch: rows of one pass.
        held_out: rows held out.
        stream: from the Plan to its batches. They end with the Plan's epochs: a
            preset's do not end a run whose steps were named.
        num_puzzles: identifiers of puzzles.
    """

    vocab_size: int
    per_epoch: int
    held_out: int
    stream: Callable[[Plan], AnyStream]
    num_puzzles: int = 1


def rows_of(prepared: AnyPrepared, config: Config) -> Rows:
    """The rows of any data.

    Raises:
        LuminaError: E105 where there is no token to learn.
    """
    if isinstance(prepared, PreparedPuzzles):
        return _puzzles(prepared)
    if isinstance(prepared, PreparedTasks):
        return _tasks(prepared, config)
    return _text(prepared, config.model.seq_length)


def text_stores(prepared: AnyPrepared) -> list[TokenStore]:
    """The documents to learn from, of one set of text or of each task."""
    if isinstance(prepared, PreparedTasks):
        return list(prepared.train.stores.values())
    return [prepared.train] if isinstance(prepared, Prepared) else []


def _text(prepared: Prepared, seq_length: int) -> Rows:
    return Rows(
        vocab_size=prepared.tokenizer.vocab_size,
        per_epoch=len(pack(prepared.train, seq_length)),
        held_out=len(pack(prepared.eval, seq_length)) if prepared.eval else 0,
        stream=lambda plan: BatchStream(
            prepared.train,
            seq_length=seq_length,
            global_batch_size=plan.global_batch_size,
            seed=plan.seed,
            epochs=plan.epochs,
        ),
    )


def _puzzles(prepared: PreparedPuzzles) -> Rows:
    """Puzzles are rows already."""
    return Rows(
        vocab_size=prepared.train.vocab_size,
        per_epoch=len(prepared.train),
        held_out=len(prepared.eval) if prepared.eval else 0,
        stream=lambda plan: PuzzleStream(
            prepared.train,
            global_batch_size=plan.global_batch_size,
            seed=plan.seed,
            epochs=plan.epochs,
        ),
        num_puzzles=prepared.train.num_puzzles,
    )


def _tasks(prepared: PreparedTasks, config: Config) -> Rows:
    """Rows of several tasks come by a strategy."""
    seq_length = config.model.seq_length
    sequence = task_sequence(
        prepared.train,
        seq_length=seq_length,
        seed=config.train.seed,
        strategy=config.data.task_sampling_strategy,
    )
    held_out = prepared.eval.stores.values() if prepared.eval else ()
    return Rows(
        vocab_size=prepared.tokenizer.vocab_size,
        per_epoch=sequence.rows_per_epoch,
        held_out=sum(len(pack(one, seq_length)) for one in held_out),
        stream=lambda plan: TaskStream(
            prepared.train,
            sequence,
            seq_length=seq_length,
            global_batch_size=plan.global_batch_size,
            epochs=plan.epochs,
        ),
    )
