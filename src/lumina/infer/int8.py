"""Networks whose large matrices stay in 8 or 4 bits, widened as a layer runs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lumina.assemble.logical import join_fused, logical_names
from lumina.infer.nf4 import Nf4Experts, Nf4Linear, Nf4Weights
from lumina.model.layers import Linear
from lumina.model.moe import MoeFeedForward, routed_layers
from lumina.model.network import Network
from lumina.model.spec import ModelSpec
from lumina.model.tensors import FusedPieces
from lumina.state.weights import Int8Weights


class Int8Linear(nn.Module):
    """`lumina.model.layers.Linear` with an int8 `weight` and a `scale` for each row."""

    weight: Tensor
    scale: Tensor

    def __init__(self, full: Linear) -> None:
        super().__init__()
        rows, columns = full.weight.shape
        self.register_buffer("weight", torch.empty(rows, columns, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(rows))
        self.bias = full.bias

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out]."""
        y = F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)


class Int8Experts(MoeFeedForward):
    """A routed layer whose experts are int8, with a scale for each of their rows."""

    gate_up_scale: Tensor
    down_scale: Tensor

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__(spec, layer_index)
        for name in ("gate_up", "down"):
            shape = getattr(self, name).shape
            delattr(self, name)
            self.register_buffer(name, torch.empty(shape, dtype=torch.int8))
            self.register_buffer(f"{name}_scale", torch.empty(shape[:-1]))

    def matrices(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Of all experts, in `dtype`."""
        return (
            self.gate_up.to(dtype) * self.gate_up_scale.to(dtype).unsqueeze(-1),
            self.down.to(dtype) * self.down_scale.to(dtype).unsqueeze(-1),
        )


FORMS: dict[type, tuple[str, Any, Any]] = {
    Int8Weights: ("int8", Int8Linear, Int8Experts),
    Nf4Weights: ("nf4", Nf4Linear, Nf4Experts),
}
"""Weights -> where they hold small matrices, and the layers that use them."""


class SmallLayers:
    """The layers of a network on the meta device that hold small weights, put in place.

    Args:
        network: its layers are replaced.
        source: its weights; nothing is replaced unless they are `Int8Weights` or
            `Nf4Weights`.
        pieces: the fused parameters of the network, as it was.

    Attributes:
        scales: name of a scale in the network -> of the tensor it is the scale of.
    """

    def __init__(
        self, network: Network, source: Any, pieces: dict[str, FusedPieces]
    ) -> None:
        self._network = network
        self._pieces = pieces
        held, *layers = FORMS.get(type(source), ("", None, None))
        self._small: dict[str, Any] = getattr(source, held) if held else {}
        self._linear, self._experts = layers
        self.scales: dict[str, str] = {}
        for name, _ in list(network.named_parameters()):
            if self._small.keys() >= set(logical_names(name, pieces)):
                self._replace(name)
        self._values = set(self.scales.values())

    def _replace(self, name: str) -> None:
        """Make room for the small form of a parameter."""
        path, _, leaf = name.rpartition(".")
        owner, _, own = path.rpartition(".")
        module = self._network.get_submodule(path)
        with torch.device("meta"):
            if isinstance(module, Linear):
                self.scales[f"{path}.scale"] = name
                setattr(self._network.get_submodule(owner), own, self._linear(module))
                return
            self.scales[f"{name}_scale"] = name
            if isinstance(module, MoeFeedForward) and leaf == "gate_up":
                routed = self._experts(self._network.spec, module.layer_index)
                setattr(self._network.get_submodule(owner), own, routed)

    def reset_buffers(self) -> None:
        """As the network's, which knows no small buffers."""
        if not self._small:
            self._network.reset_buffers()
        for layer in routed_layers(self._network):
            layer.reset_buffers()

    def value(self, name: str) -> Tensor | None:
        """What a small tensor or a scale is to hold; None for the others."""
        if name in self._values:
            return join_fused(name, self._pieces, lambda one: self._small[one].values)
        if name in self.scales:
            whose = self.scales[name]
            return join_fused(whose, self._pieces, lambda one: self._small[one].scale)
        return None
