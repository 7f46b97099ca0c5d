"""Where a run's loop sets out: at the first step, or at a checkpoint's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lumina.assemble.assemble import Progress, assemble
from lumina.assemble.program import DTYPES, Program
from lumina.assemble.state_parts import WITHOUT, missing_in_words
from lumina.data.recorded_encoding import changed_encoding
from lumina.data.tokenise import RULES_SINCE
from lumina.errors import LuminaError
from lumina.plan.duration import length_in_words
from lumina.state.checkpoint import CheckpointStore
from lumina.state.reader import CheckpointReader, open_checkpoint
from lumina.state.state import State
from lumina.train.best import Best
from lumina.train.controls import Controls
from lumina.train.controls.apply_change import set_again
from lumina.train.edits import Edit, edited
from lumina.train.few_bits_cost import cost_of_few_bits
from lumina.train.preparation import Preparation
from lumina.train.recalled import recall
from lumina.train.recorder import Recorder
from lumina.train.rules import RunningRules
from lumina.train.rules.earlier import rules_state
from lumina.train.told_errors import tell_errors
from lumina.train.told_few_bits import base_in_words
from lumina.train.warm_up import warm_device_beside


@dataclass(frozen=True)
class Outset:
    """The Program, and what the loop remembers of the steps before.

    Attributes:
        program: with the weights to start from.
        progress: steps, tokens and the position in the data.
        best: the best evaluation so far.
        controls: the journal of changes.
        rules: what watches the run and may change it.
        evaluation_owed: a signal broke off the evaluation of the last step.
    """

    program: Program
    progress: Progress
    best: Best
    controls: Controls
    rules: RunningRules
    evaluation_owed: bool = False


def begin(prepared: Preparation, recorder: Recorder, store: CheckpointStore) -> Outset:
    """A Program with initial weights, `--init-from`'s, or those of the phase before."""
    _ready_device(prepared)
    weights, turn = prepared.start.weights, prepared.place.turn
    step = turn.step if turn else 0
    if recorder.metrics is not None:
        recorder.metrics.truncate_after(step)
    progress = Progress(cursor=dict(prepared.stream.start))
    controls = Controls()
    if turn is not None:
        store.rewind(step)
        recall(recorder, prepared.ranks, prepared.first_step)
        recorder.skipped = progress.skipped = turn.skipped
        progress.step, progress.tokens = step, turn.tokens
        controls = Controls(turn.journal)
        recorder.event(
            "phase_begins",
            "info",
            None,
            f"the phase {prepared.plan.phase} begins with the weights of "
            f"{turn.checkpoint.name}{_begins_anew(prepared)}",
            step=step,
            phase=prepared.plan.phase,
        )
    if turn is not None and prepared.config.stages.phase_optimizer == "keep":
        with open_checkpoint(turn.checkpoint) as reader:
            program = assemble(
                prepared.plan, reader, ranks=prepared.ranks, meta=reader.meta
            )
    else:
        program = assemble(
            prepared.plan, weights.source if weights else None, ranks=prepared.ranks
        )
    _tell_of_base(program, recorder)
    batches = prepared.config.quantization.quantization_eval_batches
    if turn is None and batches:
        assert weights is not None  # as `start_checks` has found
        read = weights.source.tensor
        cost = cost_of_few_bits(program, prepared.data, read, batches)
        recorder.event("cost_of_few_bits", "info", None, str(cost), **cost.figures)
    return Outset(program, progress, Best(), controls, RunningRules.of(prepared.plan))


def _ready_device(prepared: Preparation) -> None:
    """Load the device's libraries while the program is built."""
    if prepared.config.system.cuda_warm_up:
        plan = prepared.plan
        device = prepared.ranks.device(plan.device)
        warm_device_beside(device, DTYPES[plan.compute_dtype])


def _tell_of_base(program: Program, recorder: Recorder) -> None:
    """Say how far a base in few bits is from its weights, where there is one."""
    if (told := base_in_words(program)) is not None:
        text, figures = told
        recorder.event("base_in_few_bits", "info", None, text, **figures)


def _begins_anew(prepared: Preparation) -> str:
    """What of the phase before is not gone on with, in words."""
    if prepared.plan.schedule_steps:
        return f" and rows of {prepared.plan.spec.seq_length:,} tokens"
    if prepared.config.stages.phase_optimizer == "keep":
        return " and its optimizer's states; its schedule restarts"
    return "; its optimizer and its schedule are reset"


def go_on(prepared: Preparation, recorder: Recorder, store: CheckpointStore) -> Outset:
    """The Program and the loop's memory, from the checkpoint that was found.

    Raises:
        LuminaError: E002 if the data is other data.
    """
    _ready_device(prepared)
    reader = prepared.reader
    assert reader is not None and prepared.resumption is not None
    meta = edited(reader.meta, prepared.resumption.edits)
    check_data(prepared, meta.extra)
    program = assemble(prepared.plan, reader, ranks=prepared.ranks, meta=meta)
    _tell_of_base(program, recorder)
    controls = Controls(meta.journal)
    controls.set_aside(prepared.resumption.changes)
    set_again(program, controls)
    progress = Progress(
        step=meta.step,
        tokens=meta.counters["tokens"],
        skipped=meta.counters["skipped"],
        cursor=meta.cursor,
    )
    best = Best.of(meta.extra)
    recorder.skipped = progress.skipped
    store.rewind(progress.step)
    if recorder.metrics is not None:
        recorder.metrics.truncate_after(progress.step)
    recall(recorder, prepared.ranks, prepared.first_step)
    _tell_resumed(prepared, recorder, reader, progress.step)
    tell_errors(meta, reader, program, recorder)
    if missing := missing_in_words(meta):
        recorder.event(
            "begins_anew",
            "info",
            None,
            f"{missing}: reset after step {progress.step:,}, "
            + _why_anew(reader.meta, prepared.resumption.edits),
            step=progress.step,
            parts=meta.extra[WITHOUT],
        )
    reader.close()
    rules = RunningRules.of(prepared.plan)
    rules.load(rules_state(meta.extra))
    owed = meta.extra.get("evaluation_owed", False)
    return Outset(program, progress, best, controls, rules, owed)


def _why_anew(saved: State, edits: Iterable[Edit]) -> str:
    """Why parts of the State start over, in words."""
    causes = []
    if missing_in_words(saved):
        causes.append("the checkpoint was saved without")
    if any(edit.step == saved.step for edit in edits):
        causes.append("a reset was asked for")
    return " and ".join(causes)


def check_data(prepared: Preparation, extra: dict[str, Any]) -> None:
    """The position in the data means nothing in other data."""
    if extra["data_fingerprint"] != prepared.stream.fingerprint:
        began = extra.get("encoding_rules", 2)
        tokenizer = prepared.data.tokenizer
        if began < 3 and tokenizer is not None and tokenizer.bos_id is None:
            raise LuminaError(
                "E002",
                "this run was begun by an earlier version, which gave its texts other "
                f"ids: {RULES_SINCE[3]}",
                "start another run from its weights with --init-from",
            )
        changed = changed_encoding(extra.get("encoding", {}), tokenizer)
        if changed:
            raise LuminaError(
                "E002",
                f"the {' and the '.join(changed)} in this run's folder `tokenizer` "
                "changed since the run was begun, and with it the ids of its data",
                "restore it, or start another run with --init-from",
            )
        raise LuminaError(
            "E002",
            "the training data is not what this run was begun with",
            "restore it, or start another run with --init-from",
        )


def _tell_resumed(
    prepared: Preparation, recorder: Recorder, reader: CheckpointReader, step: int
) -> None:
    assert prepared.resumption is not None
    changes = prepared.resumption.changes
    listed = "; ".join(f"{k}: {old} -> {new}" for k, (old, new) in changes.items())
    recorder.event(
        "resumed",
        "info",
        None,
        f"going on from {reader.path.name}" + (f" with {listed}" if listed else ""),
        step=step,
        checkpoint=reader.path.name,
        world_size=prepared.ranks.world_size,
    )
    before, plan = reader.meta.plan, prepared.plan
    same = before["global_batch_size"] == plan.global_batch_size
    if not same and "global_batch_size" not in changes:
        ranks, now = before["world_size"], plan.world_size
        why = "" if ranks == now else f" (ranks: {ranks} -> {now})"
        recorder.event(
            "batch_changed",
            "warning",
            None,
            f"a step has {plan.global_batch_size} sequences from here on, not "
            f"{before['global_batch_size']}{why}; --global-batch-size says how many",
            step=step,
        )
    # Rows that are left make another number of steps where a step changed.
    if {"steps", "epochs"} & changes.keys() or before["steps"] != plan.steps:
        recorder.event(
            "schedule_recomputed",
            "info",
            None,
            f"{length_in_words(plan)}; the learning rate follows the schedule of that "
            "length from here on",
            step=step,
        )
