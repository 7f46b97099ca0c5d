"""FSDP2: every rank holds a part of each parameter.

Only a sharded run imports this module: FSDP2 and DTensor take seconds to load.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)

from lumina.parallel.way import Place


def shard(place: Place, *, stays_gathered: bool = False) -> None:
    """Shard in place: each block its own unit; embedding, norm and head the root's.

    A unit is gathered in one type, so a router's weight is rounded to the compute type
    here (its products stay float32); a unit of its own would cut every compiled block
    in two.

    Args:
        place: the network, on the meta device, and the ranks that share it.
        stays_gathered: the weights of a block stay on every rank from its forward to
            its backward pass, and are not gathered again between the two.
    """
    network, dtype = place.network, place.compute_dtype
    mesh = device_mesh(place)
    policy = MixedPrecisionPolicy(
        param_dtype=None if dtype == torch.float32 else dtype,
        reduce_dtype=torch.float32,
        cast_forward_inputs=False,
    )
    ignored = set(place.whole) | persistent(place)
    for block in network.backbone.blocks:
        fully_shard(
            block,
            mesh=mesh,
            mp_policy=policy,
            reshard_after_forward=not stays_gathered,
            ignored_params=ignored,
        )
    fully_shard(network, mesh=mesh, mp_policy=policy, ignored_params=ignored)
    register_fsdp_forward_method(network, "logits")


def persistent(place: Place) -> set[nn.Parameter]:
    """The parameters that stay whole because they are small; float32 on every rank."""
    most = place.messages.persistent
    parameters = set(place.network.parameters()) - place.whole
    return {one for one in parameters if one.numel() < most}


@torch.no_grad()
def average_whole(place: Place) -> None:
    """Make the gradients of those parameters their mean over the ranks, in one message.

    One that no token of this rank has used adds zero.
    """
    small = persistent(place)
    trained = [
        one for one in place.network.parameters() if one in small and one.requires_grad
    ]
    if not trained:
        return
    for one in trained:
        if one.grad is None:
            one.grad = torch.zeros_like(one)
    gradients = [one.grad for one in trained if one.grad is not None]
    ranks = place.mesh.tokens
    mean = ranks.sum_(torch.cat([one.view(-1) for one in gradients])).div_(ranks.size)
    at = 0
    for gradient in gradients:
        gradient.view(-1).copy_(mean[at : at + gradient.numel()])
        at += gradient.numel()


def device_mesh(place: Place) -> DeviceMesh:
    """The ranks over which parameters are divided, as FSDP2 takes them."""
    ranks, device = place.mesh.tokens, place.device.type
    if ranks.group is None:
        return init_device_mesh(device, (ranks.size,))
    return DeviceMesh.from_group(ranks.group, device)


def synchronise_gradients(network: nn.Module, wanted: bool) -> None:
    """Whether the next backward reduces gradients over the ranks."""
    assert isinstance(network, FSDPModule)
    network.set_requires_gradient_sync(wanted)


def keep_gathered(network: nn.Module, wanted: bool) -> None:
    """Whether weights stay gathered after the next backward pass, for another one."""
    assert isinstance(network, FSDPModule)
    network.set_reshard_after_backward(not wanted)


def free_gathered(network: nn.Module) -> None:
    """Free the weights that stay gathered after a forward pass without a backward."""
    for module in network.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def forget_step(network: nn.Module) -> None:
    """Free the weights of every unit, wherever a forward or backward broke off."""
    reset = getattr(network, "reset_iter_state", None)
    if reset is not None:  # from torch 2.12 on
        reset()
        return
    # `FSDPModule.reshard` leaves a root as it is while a forward is under way.
    for unit in network.modules():
        if isinstance(unit, FSDPModule):
            group = unit._get_fsdp_state()._fsdp_param_group
            if group is not None:
                group._to_sharded()
