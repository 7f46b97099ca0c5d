"""What DDP does with a bucket of gradients where they may be exchanged elsewhere."""

# DDP compares the annotations of its hooks, which therefore are no text here.
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from lumina.parallel.mesh import RankGroup


@dataclass
class Averaging:
    """Whether DDP averages gradients.

    Attributes:
        ranks: among which it does.
        elsewhere: it leaves them as they are, for what exchanges them afterwards.
    """

    ranks: RankGroup
    elsewhere: bool = False


def averaged(state: Averaging, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """DDP's hook: the mean over the ranks of a bucket, or the bucket as it is."""
    if state.elsewhere:
        found: torch.futures.Future[Tensor] = torch.futures.Future()
        found.set_result(bucket.buffer())
        return found
    group = state.ranks.group or dist.group.WORLD
    assert group is not None
    return allreduce_hook(group, bucket)
