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
    tensors: ClassVar[Mapping[str, str]] = {"ia3_l": "factors"}
    plain: ClassVar[Mapping[str, tuple[Any, ...]]] = {"fan_in_fan_out": (None, False)}

    def piece(
        self, config: Mapping[str, Any], module: str, tensors: dict[str, Tensor]
    ) -> Piece:
        """`factors` [out], or `factors_in` [in] where inputs are scaled."""
        factors = tensors.get("factors")
        if factors is None or factors.ndim != 2 or 1 not in factors.shape:
            raise LuminaError(
                "E102", f"{module} has no ia3_l", "fetch the folder again"
            )
        own = "factors" if factors.shape[1] == 1 else "factors_in"
        return Piece({own: factors.flatten()}, 1, 1.0)

    def settings(self, adapter: Adapter) -> dict[str, Any]:
        """As PEFT's IA3Config has them; `feedforward_modules` scale their inputs."""
        return {"fan_in_fan_out": False, "init_ia3_weights": True}
