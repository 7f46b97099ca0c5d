"""Measures one lever in this process: `python -m lumina.guard.lever_child REQUEST`.

The request is a file of JSON; what was found is written into the file that it names.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lumina.assemble.assemble import assemble
from lumina.child_processes import die_with_parent
from lumina.durable import write_file
from lumina.features import FEATURES
from lumina.guard.findings import Findings
from lumina.guard.measure import measure
from lumina.guard.programs import ProgramSubject, batches_of, reference_plan, without
from lumina.guard.thresholds import THRESHOLDS
from lumina.model.registry import load_plugins
from lumina.plan.environment import probe
from lumina.plan.plan import Plan
from lumina.state.reader import open_checkpoint


def main(words: list[str] | None = None) -> int:
    """Measure what the request asks for."""
    (file,) = sys.argv[1:] if words is None else words
    request = json.loads(Path(file).read_text())
    die_with_parent(request["parent"])
    load_plugins(request["plugins"])
    found = measured(
        Plan.from_dict(request["plan"]), request["levers"], request["checkpoint"]
    )
    text = json.dumps(found.to_dict()) + "\n"
    write_file(Path(request["answer"]), text.encode())
    return 0


def measured(plan: Plan, levers: list[str], checkpoint: str = "") -> Findings:
    """Measure a lever, or a bundle of several, in this process.

    Args:
        plan: with all of them on.
        levers: their names.
        checkpoint: a folder with weights to begin with; "" for initial ones.
    """
    machine = probe(plan.device)
    claims = {FEATURES[name].claim for name in levers}
    quantised = "fp8" in claims
    # With 8 bits the baseline has the same quantisation, emulated.
    others = tuple(name for name in levers if FEATURES[name].claim != "fp8")
    baseline = without(plan, others, machine)
    reference = reference_plan(plan)
    if quantised:
        reference = reference.replace(fp8=plan.fp8)
    subject = _made(plan, checkpoint)
    return measure(
        "+".join(levers),
        _made(reference, checkpoint, emulated=quantised),
        _made(baseline, checkpoint, emulated=quantised),
        subject,
        batches_of(plan, THRESHOLDS.batches),
        plain=(
            _made(without(plan, tuple(levers), machine), checkpoint)
            if quantised
            else None
        ),
        claim="fp8" if quantised else "exact",
        faster=any(FEATURES[name].faster for name in levers),
        steps=plan.steps,
    )


def _made(plan: Plan, checkpoint: str, **options: Any) -> ProgramSubject:
    if not checkpoint:
        return ProgramSubject(plan, **options)
    with open_checkpoint(Path(checkpoint)) as reader:
        return ProgramSubject(plan, program=assemble(plan, reader), **options)


if __name__ == "__main__":
    sys.exit(main())
