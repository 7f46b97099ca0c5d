"""What cannot be had where all weights of blocks are streamed while they train."""

from __future__ import annotations

from lumina.optim.declared import chosen_optimizer
from lumina.optim.groups import parse_groups
from lumina.plan.plan import Plan


def problem_of(plan: Plan) -> str:
    """Why the weights of a Plan cannot be streamed while they train; "" where they can.

    Under adapters and `freeze`, frozen weights alone are streamed, which always can be.
    """
    if plan.spec.adapters or plan.freeze:
        return ""
    groups = parse_groups(plan.optimizer_groups)
    used = {plan.optimizer, *(group.optimizer for group in groups)}
    evaluating = sorted(name for name in used if chosen_optimizer(name).evaluates)
    on_device = plan.optimizer_states_in == "device"
    checks = (
        (on_device, "the optimizer's states are on the device"),
        (plan.weights_dtype != "float32", "weights are in 16 bits without masters"),
        (bool(evaluating), f"{', '.join(evaluating)} evaluates other weights"),
        (not plan.masters_beside, "something reads or changes weights between steps"),
    )
    return next((words for applies, words in checks if applies), "")
