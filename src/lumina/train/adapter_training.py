"""What a run with adapters begins with: its base, and the adapters' first values."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from lumina.errors import LuminaError
from lumina.model.adapters.start import FirstValues, as_it_is
from lumina.model.declared import declared, parameters
from lumina.model.freezing import frozen_parameters
from lumina.model.kinds.adapters import placed
from lumina.ops.low_bits.codec import found_codec
from lumina.plan.plan import Plan
from lumina.state.adapter_base import Started, content_of, reference_to
from lumina.state.reader import CheckpointReader
from lumina.state.weights import Weights, open_weights


def begun_on(
    plan: Plan, weights: Weights, held: frozenset[str]
) -> tuple[Plan, Weights]:
    """The Plan that names the base, and the weights with adapters beside them.

    Args:
        plan: of a model with adapters.
        weights: what the run begins with.
        held: the names of the tensors in the files of those weights, before tensors
            were added to them.

    Raises:
        LuminaError: E002 for a tensor that neither trains nor is in those files.
    """
    frozen = frozen_parameters(plan.spec, ())
    lost = [
        name
        for one in parameters(plan.spec)
        if one.name in frozen
        for name in one.logical_names
        if name not in held
    ]
    if lost:
        raise LuminaError(
            "E002",
            f"{lost[0]} is not in the weights in {weights.path}, and would not train: "
            "a checkpoint holds the adapters alone, so it would be lost",
            "let it train with --peft-also-train, or train without --use-peft first",
        )
    plan = plan.replace(adapter_base=reference_to(weights))
    if weights.spec.adapters:
        return plan, weights
    tensors = declared(plan.spec)
    first = FirstValues(
        tensors,
        placed(plan.spec, tensors),
        plan.seed,
        weights.source.tensor,
        partial(rounded, plan.base_storage) if plan.base_storage else as_it_is,
    )
    source = Started(weights.source, first, first.names)
    return plan, replace(weights, spec=plan.spec, source=source)


def rounded(codec: str, matrix: Tensor) -> Tensor:
    """What is left of a float32 matrix that is held by a codec."""
    return found_codec(codec).pack(matrix).unpacked()


def gone_on(plan: Plan, reader: CheckpointReader, moved_to: str | None) -> Plan:
    """The Plan of a run that goes on, which names the base of its checkpoint.

    Args:
        plan: of a model with adapters.
        reader: the checkpoint.
        moved_to: where the base is now, if it was moved.

    Raises:
        LuminaError: E303 where another base is there now.
    """
    reference = dict(reader.meta.plan["adapter_base"])
    if moved_to is not None:
        weights = open_weights(moved_to)
        folder: Path = weights.path.resolve()
        weights.close()
        if content_of(folder) != reference["sha256"]:
            raise LuminaError(
                "E303",
                f"{folder} has other weights than those the adapters were trained on",
                "name the base that they were trained on with --peft-base",
            )
        reference["path"] = str(folder)
    return plan.replace(adapter_base=reference)
