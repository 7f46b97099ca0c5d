"""PEFT's LOKR (Yeh et al., 2023, arXiv:2309.14859)."""

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
class Lokr(PeftType):
    """A Kronecker product of two matrices, each whole or of narrow ones."""

    name = "LOKR"
    methods = ("lokr",)
    tensors: ClassVar[Mapping[str, str]] = {
        f"lokr_{name}": name for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b")
    }
    options = ("decompose_both", "decompose_factor")

    def piece(
        self, config: Mapping[str, Any], module: str, tensors: dict[str, Tensor]
    ) -> Piece:
        """`w1` or `w1_a` and `w1_b`; `w2` or `w2_a` and `w2_b`."""
        for one in ("w1", "w2"):
            held = {name for name in tensors if name.startswith(one)}
            if held not in ({one}, {f"{one}_a", f"{one}_b"}):
                raise LuminaError(
                    "E102",
                    f"{module} holds {', '.join(sorted(held)) or 'nothing'} for {one}",
                    "fetch the folder again",
                )
        return Piece(tensors, *rank_and_alpha(config, module))

    def settings(self, adapter: Adapter) -> dict[str, Any]:
        """As PEFT's LoKrConfig has them; the factors follow from what is held."""
        return {
            "rank_dropout": 0.0,
            "module_dropout": 0.0,
            "use_effective_conv2d": False,
            "decompose_both": adapter.options.get("decompose_both", False),
            "decompose_factor": adapter.options.get("decompose_factor", -1),
            "init_weights": True,
        }
