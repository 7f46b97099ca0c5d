"""What a run says of a base that it holds in few bits."""

from __future__ import annotations

from typing import Any

from lumina.assemble.program import Program
from lumina.quantities import byte_size


def base_in_words(program: Program) -> tuple[str, dict[str, Any]] | None:
    """What the matrices in few bits take, and how far they are from the weights.

    Returns:
        A sentence, and its figures; None for a program without such matrices.
    """
    errors = program.storage_error
    if not errors:
        return None
    packed = [one.packed(name) for one in program.stored.values() for name in one.names]
    few = sum(one.nbytes for one in packed)
    mean = sum(errors.values()) / len(errors)
    worst = max(errors, key=errors.__getitem__)
    figures = {
        "codec": program.plan.base_storage,
        "tensors": len(packed),
        "bytes": few,
        "mean_error": mean,
        "largest_error": errors[worst],
        "largest_error_of": worst,
        "errors": errors,
    }
    text = (
        f"{len(packed)} matrices of the base are in {program.plan.base_storage}, "
        f"{byte_size(few)}: {mean:.2%} from the weights in the files on average, "
        f"{errors[worst]:.2%} at most ({worst})"
    )
    return text, figures
