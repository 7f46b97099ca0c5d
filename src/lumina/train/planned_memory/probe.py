"""Two short steps on the device, in a process of its own: what each stage takes.

Started by `lumina.train.planned_memory.measured` as
`python -m lumina.train.planned_memory.probe`, with a Plan on standard input. Whatever
happens here ends with the process; so does running out of memory.
"""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

from lumina.memory_shortage import shortage_code


def main() -> int:
    """Print the peaks of each stage, or {"out_of_memory": true}, as a line of JSON."""
    asked = json.load(sys.stdin)
    try:
        found = measure(asked["plan"], asked.get("plugins", []))
    except Exception as error:
        if shortage_code(error) is None:
            raise
        found = {"out_of_memory": True}
    print(json.dumps(found), flush=True)
    return 0


def measure(plan_values: dict[str, Any], plugins: list[str]) -> dict[str, Any]:
    """Assemble a Plan with random weights, take two steps, evaluate a batch.

    Args:
        plan_values: `Plan.to_dict`.
        plugins: loaded before.

    Returns:
        "allocated" and "reserved": bytes by stage of
        `lumina.train.planned_memory.steps.STAGES`, of PyTorch's allocator, over both
        steps; on a CPU "resident", the largest resident size of the process.
    """
    import torch

    from lumina.assemble.program import Program
    from lumina.assemble.ranks import Ranks
    from lumina.model.registry import load_plugins
    from lumina.plan.plan import Plan
    from lumina.train.planned_memory.steps import random_weights, take_steps

    load_plugins(plugins)
    plan = Plan.from_dict(plan_values)
    torch.set_float32_matmul_precision("high" if plan.tf32 else "highest")
    program = Program(plan, Ranks.from_environment())
    program.materialise(random_weights(program))
    if program.device.type != "cuda":
        take_steps(program, lambda stage: None)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return {"resident": peak, "torch": torch.__version__}
    # Values were drawn on the device; what that took is no part of a step.
    torch.cuda.empty_cache()
    allocated: dict[str, int] = {}
    reserved: dict[str, int] = {}

    def ended(stage: str) -> None:
        if stage != "begin":
            most = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            allocated[stage] = max(allocated.get(stage, 0), most[0])
            reserved[stage] = max(reserved.get(stage, 0), most[1])
        torch.cuda.reset_peak_memory_stats()

    ended("begin")
    held = torch.cuda.memory_allocated()
    take_steps(program, ended)
    return {
        "held": held,
        "allocated": allocated,
        "reserved": reserved,
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    sys.exit(main())
