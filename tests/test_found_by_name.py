"""Tables whose entries are files: a wrong name, and a name that is taken."""

from __future__ import annotations

import pytest

from lumina.errors import LuminaError
from lumina.model.adapters.table import chosen_method
from lumina.observe.trackers import Tracker, chosen_tracker, register_tracker
from lumina.ops.kv_formats.table import find_format
from lumina.ops.low_bits.codec import found_codec
from lumina.optim.declared import chosen_optimizer
from lumina.optim.gradient_step import (
    GradientStep,
    chosen_gradient_step,
    register_gradient_step,
)
from lumina.plan.schedule_table import chosen_schedule, register_schedule


@pytest.mark.parametrize(
    ("chosen", "wrong", "meant"),
    [
        (chosen_method, "lorra", "lora"),
        (chosen_tracker, "tensorbord", "tensorboard"),
        (find_format, "int88", "int8"),
        (found_codec, "nf44", "nf4"),
        (chosen_optimizer, "adanw", "adamw"),
        (chosen_gradient_step, "zclib", "zclip"),
        (chosen_schedule, "cosin", "cosine"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_and_with_all(chosen, wrong, meant):
    with pytest.raises(LuminaError) as refused:
        chosen(wrong)
    assert refused.value.code == "E005" and wrong in refused.value.message
    hint = refused.value.hint or ""
    assert hint.startswith(f"did you mean {meant!r}? there are ")
    assert chosen(meant) is not None


def test_a_name_of_luminas_own_is_not_taken_over():
    step = register_gradient_step("zclip", words="mine")
    schedule = register_schedule("cosine", words="mine")
    tracker = register_tracker("tensorboard")
    for register, mine in (
        (step, type("Mine", (GradientStep,), {})),
        (schedule, lambda place: 1.0),
        (tracker, type("Mine", (Tracker,), {})),
    ):
        with pytest.raises(LuminaError, match="Lumina itself already has") as refused:
            register(mine)
        assert refused.value.code == "E005"
