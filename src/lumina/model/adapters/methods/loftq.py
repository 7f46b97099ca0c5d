"""LoftQ: begin with what few bits lose (Li et al., 2023, arXiv:2310.08659)."""

from __future__ import annotations

from torch import Tensor

from lumina.model.adapters.method import Tensors
from lumina.model.adapters.methods.lora import Lora
from lumina.model.adapters.principal import principal
from lumina.model.adapters.table import register


class Loftq(Lora):
    """LoRA on a base in few bits, whose B A begins as the principal part of its error.

    This is the paper's method with one round: the base is that of rounding alone, so
    that it is the same for every adapter.
    """

    name = "loftq"
    words = "LoftQ"
    starts_from_base = True

    def start(
        self, tensors: Tensors, scale: float, base: Tensor, held: Tensor
    ) -> dict[str, Tensor]:
        """The principal part of what the base in few bits lacks."""
        lost = (base.float() - held.float()) / scale
        b, a = principal(lost, tensors["a"].shape[-2])
        return {"a": a, "b": b}


register(Loftq())
