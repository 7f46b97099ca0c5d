"""PEFT's ADALORA (Zhang et al., 2023, arXiv:2303.10512)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

from torch import Tensor

from lumina.errors import LuminaError
from lumina.state.adapters.adapter import Adapter, Piece
from lumina.state.adapters.as_lora import left_of
from lumina.state.adapters.peft_type import (
    PeftType,
    alpha_of,
    rank_of,
    register_peft_type,
)


@register_peft_type
class Adalora(PeftType):
    """LoRA with a singular value for each rank, of which training drops some."""

    name = "ADALORA"
    methods = ("adalora",)
    tensors: ClassVar[Mapping[str, str]] = {"lora_A": "a", "lora_B": "b", "lora_E": "e"}
    plain: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "bias": (None, "none"),
        "fan_in_fan_out": (None, False),
    }

    def piece(
        self, config: Mapping[str, Any], module: str, tensors: dict[str, Tensor]
    ) -> Piece:
        """`a` [rank, in], `e` [rank, 1], `b` [out, rank]; the rank before any drop."""
        if set(tensors) != {"a", "b", "e"}:
            raise LuminaError(
                "E102", f"{module} lacks a matrix of lora_*", "fetch the folder again"
            )
        rank = rank_of(config.get("init_r"), "init_r")
        alpha = alpha_of(config.get("lora_alpha"), "lora_alpha")
        return Piece(tensors, rank, alpha if alpha > 0 else float(rank))

    def prepared(self, adapter: Adapter) -> Adapter:
        """With the ranks that are left, and without what only training needs."""
        pieces = {name: left_of(piece) for name, piece in adapter.pieces.items()}
        return replace(adapter, pieces=pieces)

    def settings(self, adapter: Adapter) -> dict[str, Any]:
        """As PEFT's AdaLoraConfig has them."""
        return {
            "lora_dropout": adapter.dropout,
            "fan_in_fan_out": False,
            "bias": "none",
            "init_lora_weights": True,
            "total_step": 1,
        }
