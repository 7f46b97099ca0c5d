"""PEFT's LORA: LoRA, rsLoRA and DoRA.

Hu et al., 2021, arXiv:2106.09685; Kalajdzievski, 2023, arXiv:2312.03732; Liu et al.,
2024, arXiv:2402.09353.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from lumina.errors import LuminaError
from lumina.state.adapters.adapter import PLAIN_LORA, Adapter, Piece
from lumina.state.adapters.as_lora import as_lora
from lumina.state.adapters.peft_type import (
    PeftType,
    alpha_of,
    by_module,
    rank_of,
    register_peft_type,
)

_NOTHING: tuple[Any, ...] = (None, False, [], {})


@register_peft_type
class Lora(PeftType):
    """A product of two narrow matrices that is added; DoRA also scales the rows."""

    name = "LORA"
    methods = (*PLAIN_LORA, "dora", "pissa")
    tensors: ClassVar[Mapping[str, str]] = {
        "lora_A.weight": "a",
        "lora_B.weight": "b",
        "lora_embedding_A": "a_of_embedding",
        "lora_embedding_B": "b_of_embedding",
        "lora_magnitude_vector": "magnitude",
    }
    plain: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "bias": (None, "none"),
        "fan_in_fan_out": _NOTHING,
        "lora_bias": _NOTHING,
        "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal"),
        "layer_replication": _NOTHING,
        "trainable_token_indices": _NOTHING,
        "alora_invocation_tokens": _NOTHING,
        "use_qalora": _NOTHING,
        "use_bdlora": _NOTHING,
        "arrow_config": _NOTHING,
        "kasa_config": _NOTHING,
    }

    def method(self, config: Mapping[str, Any]) -> str:
        """DoRA and the rank-stabilised factor are switches of LORA."""
        if config.get("use_dora"):
            return "dora"
        return "rslora" if config.get("use_rslora") else "lora"

    def piece(
        self, config: Mapping[str, Any], module: str, tensors: dict[str, Tensor]
    ) -> Piece:
        """`a` [rank, in] and `b` [out, rank]; `magnitude` [out] for DoRA."""
        rank = rank_of(by_module(config, "r", "rank_pattern", module), "r")
        alpha = by_module(config, "lora_alpha", "alpha_pattern", module)
        if "a_of_embedding" in tensors and "b_of_embedding" in tensors:
            # The table is looked up, not multiplied: its transpose is what is adapted.
            embedding = tensors.pop("a_of_embedding"), tensors.pop("b_of_embedding")
            if "magnitude" in tensors:
                raise LuminaError(
                    "E002",
                    f"{module} is a table of token vectors, and DoRA is not supported "
                    "for one",
                    "leave the table out of target_modules",
                )
            tensors |= {"a": embedding[1].T, "b": embedding[0].T}
        wanted = {"a", "b"} | ({"magnitude"} if config.get("use_dora") else set())
        if set(tensors) != wanted:
            raise LuminaError(
                "E102",
                f"{module} has {', '.join(sorted(tensors)) or 'nothing'}, not "
                f"{', '.join(sorted(wanted))}",
                "the file does not fit adapter_config.json; fetch the folder again",
            )
        factor = alpha_of(alpha, "lora_alpha")
        if config.get("use_dora") and config.get("use_rslora"):
            factor *= math.sqrt(rank)  # which makes alpha / rank the factor of both
        return Piece(tensors, rank, factor)

    def prepared(self, adapter: Adapter) -> Adapter:
        """PiSSA as LoRA of twice the rank."""
        return as_lora(adapter) if adapter.method == "pissa" else adapter

    def settings(self, adapter: Adapter) -> dict[str, Any]:
        """As PEFT's LoraConfig has them."""
        return {
            "use_dora": adapter.method == "dora",
            "use_rslora": adapter.method == "rslora",
            "lora_dropout": adapter.dropout,
            "fan_in_fan_out": False,
            "bias": "none",
            "lora_bias": False,
            "init_lora_weights": True,
        }
