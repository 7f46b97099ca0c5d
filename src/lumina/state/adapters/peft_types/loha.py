"""PEFT's LOHA (Hyeon-Woo et al., 2021, arXiv:2108.06098)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lumina.errors import LuminaError
from lumina.state.adapters.adapter import Adapter, Piece
from lumina.state.adapters.peft_type import (
    PeftType,
    rank_and_alpha,
    register_peft_type,
)


@register_peft_type
class Loha(PeftType):
    """The product, number by number, of two products of narrow matrices."""

    name = "LOHA"
    methods = ("loha",)
    tensors: ClassVar[Mapping[str, str]] = {
        f"hada_{name}": name for name in ("w1_a", "w1_b", "w2_a", "w2_b")
    }

    def piece(
        self, config: Mapping[str, Any], module: str, tensors: dict[str, Tensor]
    ) -> Piece:
        """`w1_a` and `w2_a` [out, rank], `w1_b` and `w2_b` [rank, in]."""
        if len(tensors) != 4:
            raise LuminaError(
                "E102", f"{module} lacks a matrix of hada_*", "fetch the folder again"
            )
        return Piece(tensors, *rank_and_alpha(config, module))

    def settings(self, adapter: Adapter) -> dict[str, Any]:
        """As PEFT's LoHaConfig has them."""
        return {
            "rank_dropout": 0.0,
            "module_dropout": 0.0,
            "use_effective_conv2d": False,
            "init_weights": True,
        }
