"""States that are copied from a GPU while the next step computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lumina.assemble.assemble import assemble, capture, wanted_copies
from lumina.assemble.host_copies import HostCopies
from programs import conversations, stream_of, take_steps, tiny_plan

pytestmark = pytest.mark.gpu

WAYS = {
    "float32": {},
    "half": {"compute_dtype": "bfloat16"},
    "codes and average": {
        "compute_dtype": "bfloat16",
        "optimizer": "adamw_bf16",
        "ema_decay": 0.9,
    },
}


def copied(state):
    state.arrived()
    named = {f"weights/{name}": t for name, t in state.tensors.items()}
    for kind, held in state.optimizer.items():
        named |= {f"{kind}/{name}": t for name, t in held.items()}
    return named


@pytest.mark.parametrize("ahead", [False, True])
@pytest.mark.parametrize("name", WAYS)
def test_later_steps_and_evaluations_do_not_reach_a_copy(
    name: str, ahead: bool, tmp_path: Path
) -> None:
    stream = stream_of(conversations(tmp_path))
    program = assemble(tiny_plan(device="cuda", moe=True, **WAYS[name]))
    program.host_copies = HostCopies(program.device)
    if ahead:
        program.host_copies.prepare(wanted_copies(program))
    _, progress = take_steps(program, stream, 2)
    found = []
    for _ in range(3):
        plain = {
            key: one.clone() for key, one in copied(capture(program, progress)).items()
        }
        # Work for the GPU to do first, so that the copies are still to be made.
        torch.cuda._sleep(20_000_000)
        state = capture(program, progress, copies=program.host_copies)
        if program.average is not None:
            with program.evaluation():
                pass
        take_steps(program, stream, 2, progress)
        progress.step -= 2
        later = copied(state)
        assert later.keys() == plain.keys()
        for key, tensor in plain.items():
            assert torch.equal(later[key], tensor), key
        found.append({key: one.data_ptr() for key, one in later.items()})
    kept = [key for key in found[0] if found[0][key] == found[2][key]]
    assert len(kept) > 0.8 * len(found[0])
    assert all(later[key].is_pinned() for key in kept if later[key].numel())
    program.close()
    assert not any(later[key].is_pinned() for key in kept)
