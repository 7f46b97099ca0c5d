"""A rank of four in a mesh of two dimensions, in a process of its own."""

from __future__ import annotations

import torch

from lumina.assemble.assemble import assemble
from lumina.data.store import TokenStore
from lumina.parallel.sizes import Sizes
from lumina.plan.plan import Plan
from programs import joined, stream_of, take_steps, tiny_plan

SIZES = Sizes(data=2, tensor=2)
STEPS = 4


def of_four(rank, place, folder, results):
    """In a process of four: the sums of each group, and a few steps."""
    Plan.mesh_sizes = property(lambda plan: SIZES)
    ranks = joined(rank, 4, place)
    mesh = ranks.mesh(SIZES)
    assert ranks.mesh(SIZES) is mesh
    groups = ("data", "sequence", "expert", "tensor", "tokens", "copies", "everyone")
    one = torch.tensor([10.0**rank])
    found = {n: getattr(mesh, n).sum_(one.clone()).item() for n in groups}
    found["any"] = [mesh.data.any_(rank == r) for r in range(4)]
    found["stack"] = mesh.data.stack(one).flatten().tolist()
    for parallel in ("ddp", "zero2", "fsdp2"):
        plan = tiny_plan(world_size=4, parallel=parallel, micro_batch_size=2)
        plan = plan.replace(grad_accum=2)
        program = assemble(plan, ranks=ranks)
        store = TokenStore.open(folder)
        found[parallel] = take_steps(program, stream_of(store), STEPS)[0].tolist()
        program.close()
    ranks.barrier()
    results.put((rank, found))
    ranks.disconnect()
