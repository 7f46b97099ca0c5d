"""Imported weights as a run, which generation, chat and training can start from."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from lumina.config import Config
from lumina.data.tokenizer import Tokenizer
from lumina.durable import write_file
from lumina.errors import LuminaError
from lumina.model.declared import tensor_info
from lumina.model.spec import ModelSpec
from lumina.plan.count import count_parameters
from lumina.plan.plan import Plan
from lumina.state import exact_json
from lumina.state.checkpoint import CheckpointStore
from lumina.state.events import EventLog
from lumina.state.huggingface.staging import staged
from lumina.state.run_directory import RunDirectory
from lumina.state.state import State


def write_run(
    target: Path,
    spec: ModelSpec,
    tensors: dict[str, Tensor],
    tokenizer: Tokenizer,
    config: Config,
    origin: str,
) -> Plan:
    """Make a run directory whose only checkpoint, of step 0, holds imported weights.

    Args:
        target: must not exist, or be empty; appears whole or not at all.
        spec: the shape of the weights.
        tensors: all logical tensors of that shape.
        tokenizer: what turns text into their ids.
        config: the shape as options.
        origin: where they come from, for the record.

    Returns:
        The plan that was written: a shape and its counts, no training.

    Raises:
        LuminaError: E002 for a folder in use or a tokenizer that knows more tokens
            than the model has rows; E104, E106 or E204 when it cannot be written.
    """
    spec = _with_room(spec, tokenizer)
    counts = count_parameters(spec)
    plan = Plan(
        spec=spec,
        steps=0,
        parameters=counts.total,
        active_parameters=counts.active,
        reasons={"spec": f"imported from {origin}"},
    )
    state = State(
        tensors=tensors,
        info=tensor_info(spec),
        counters={"step": 0, "tokens": 0, "skipped": 0},
        extra={"best_loss": None, "best_step": 0, "worse_evaluations": 0},
        spec=spec.to_dict(),
        plan=plan.to_dict(),
        config=config.to_dict(),
    )
    with staged(target) as partial:
        run = RunDirectory(partial)
        tokenizer.save(run.tokenizer)
        config.save(run.config)
        write_file(run.plan, (exact_json.dumps(state.plan, indent=1) + "\n").encode())
        with closing(EventLog(run.events)) as events:
            message = f"weights imported from {origin}"
            events.emit("imported", "info", None, message, 0)
            store = CheckpointStore(partial, on_event=events.emit)
            store.save(state, background=False, already_snapshot=True)
            store.close()
        run.mark("finished", 0, reason=message)
    return plan


def _with_room(spec: ModelSpec, tokenizer: Tokenizer) -> ModelSpec:
    """The shape with a logit for every token; padding rows may serve for new ones."""
    known = tokenizer.vocab_size
    if known > spec.padded_vocab_size:
        raise LuminaError(
            "E002",
            f"the tokenizer knows {known:,} tokens, the model {spec.vocab_size:,}",
            "the tokenizer and the weights do not belong together",
        )
    return replace(spec, vocab_size=max(known, spec.vocab_size))
