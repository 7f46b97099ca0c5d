"""FSDP2: every rank holds a part of each parameter.

Only a sharded run imports this module: FSDP2 and DTensor take seconds to load.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from lumina.model.network import Network
from lumina.plan.plan import Plan


def shard(
    network: Network, dtype: torch.dtype, plan: Plan, whole: set[nn.Parameter]
) -> None:
    """Shard in place: each block its own unit; embedding, norm and head the root's.

    A unit is gathered in one type, so a router's weight is rounded to the compute type
    here (its products stay float32); a unit of its own would cut every compiled block
    in two.

    Args:
        network: on the meta device.
        dtype: of the gathered weights.
        plan: names the device and the number of ranks.
        whole: parameters that stay whole on every rank.
    """
    mesh = init_device_mesh(plan.device, (plan.world_size,))
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    for block in network.backbone.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(network, mesh=mesh, mp_policy=policy, ignored_params=whole)
    register_fsdp_forward_method(network, "logits")


def synchronise_gradients(network: nn.Module, wanted: bool) -> None:
    """Whether the next backward reduces gradients over the ranks."""
    assert isinstance(network, FSDPModule)
    network.set_requires_gradient_sync(wanted)


def free_gathered(network: nn.Module) -> None:
    """Free the weights that the root gathered in a forward without a backward."""
    assert isinstance(network, FSDPModule)
    network.reshard()
