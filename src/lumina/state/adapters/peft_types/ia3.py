"""PEFT's IA3 (Liu et al., 2022, arXiv:2205.05638)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lumina.errors import LuminaError
from lumina.state.adapters.adapter import Adapter, Piece
from lumina.state.adapters.peft_type import PeftType, register_peft_type


@register_peft_type
class Ia3(PeftType):
    """A factor for each output of a matrix, or for each of its inputs."""

    name = "IA3"
    methods = ("ia3",)
    tensors: ClassVar[Mapping[str, str]] = {"ia3_l": "scale"}
    plain: ClassVar[Mapping[str, tuple[Any, ...]]] = {"fan_in_fan_out": (None, False)}

    def piece(
        self, config: Mapping[str, Any], module: str, tensors: dict[str, Tensor]
    ) -> Piece:
        """`scale` [out, 1], or [1, in] where inputs are scaled."""
        if set(tensors) != {"scale"} or tensors["scale"].ndim != 2:
            raise LuminaError(
                "E102", f"{module} has no ia3_l", "fetch the folder again"
            )
        return Piece(tensors)

    def settings(self, adapter: Adapter) -> dict[str, Any]:
        """As PEFT's IA3Config has them; `feedforward_modules` scale their inputs."""
        return {"fan_in_fan_out": False, "init_ia3_weights": True}
