"""From a resolved shape back to options: the inverse of `resolve_spec`."""

from __future__ import annotations

from typing import Any

from lumina.model.spec import ModelSpec
from lumina.plan.adapters import adapter_options
from lumina.plan.kinds.table import PLANNED


def model_leaves(spec: ModelSpec) -> dict[str, Any]:
    """A shape as options of the configuration.

    Raises:
        LuminaError: E002 for a shape that options cannot give.
    """
    leaves = spec.to_dict()
    leaves.pop("context")  # stays with the weights, whatever the rows
    leaves.pop("adapters")
    leaves |= adapter_options(spec)
    leaves.pop("vocab_size")
    leaves["vocab_size"] = leaves.pop("padded_vocab_size")
    for kind in PLANNED:
        held = leaves.pop(kind.field)
        if kind.alone and held is not None:
            off = {other.switch: False for other in PLANNED if other.switch}
            return off | kind.options(spec) | adapter_options(spec)
        leaves |= kind.options(spec)
    return leaves
