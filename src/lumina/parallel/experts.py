"""Expert parallelism: each rank of a group holds some of the experts of every layer.

The matrices of experts are DTensors, divided by experts over `mesh.expert`, so that
whatever reads the part of a weight that is here, or puts weights together, treats them
as it treats divided weights. Only a run that divides experts imports this module:
DTensor takes seconds to load.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from lumina.model.moe import routed_layers
from lumina.ops.moe.parted import Parted
from lumina.parallel.mesh import Mesh
from lumina.parallel.way import Place

MATRICES = ("gate_up", "down")
"""The parameters of a routed layer whose first axis is the expert's."""


def divide(place: Place) -> dict[str, nn.Parameter]:
    """Leave each rank its experts, in place; the network is on the meta device.

    Returns:
        The divided parameters by their names in the network.
    """
    peers = place.mesh.expert
    assert peers.group is not None
    mesh = DeviceMesh.from_group(peers.group, place.device.type)
    for layer in routed_layers(place.network):
        layer.parted = Parted(peers, layer.spec.num_experts)
        for leaf in MATRICES:
            setattr(layer, leaf, _divided(getattr(layer, leaf), mesh, peers.size))
    return {
        name: parameter
        for name, parameter in place.network.named_parameters()
        if isinstance(parameter, DTensor)
    }


def _divided(parameter: nn.Parameter, mesh: DeviceMesh, ranks: int) -> nn.Parameter:
    """The parameter [E, ...] as one of which this rank has E / ranks rows."""
    experts, *rest = parameter.shape
    local = parameter.new_empty(experts // ranks, *rest)
    divided = DTensor.from_local(
        local,
        mesh,
        [Shard(0)],
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
    return nn.Parameter(divided, requires_grad=parameter.requires_grad)


@torch.no_grad()
def average_gradients(parameters: list[nn.Parameter], mesh: Mesh) -> None:
    """Make the gradients of experts means over `mesh.tokens`, as others are.

    The rows of an expert came from all ranks of its group, so their gradients are a sum
    over those ranks already; what the ranks of other groups found is added here.
    """
    for parameter in parameters:
        if parameter.grad is None:
            continue
        here: Tensor = parameter.grad.to_local()  # type: ignore[attr-defined]
        mesh.same_experts.sum_(here.div_(mesh.tokens.size))
