"""Blocks of older families: from options to the shape, and back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec, StyleSpec
from lumina.plan.kinds.kind import Known, Planned

if TYPE_CHECKING:
    from lumina.config import Config


class Styled(Planned):
    """Blocks of GPT-2 or Phi-2 in place of Lumina's own."""

    field = "style"

    def chosen(self, config: Config) -> bool:
        """Whether the options name another family."""
        return bool(config.get("block_style") != "llama")

    def resolve(self, config: Config, spec: ModelSpec, known: Known) -> ModelSpec:
        """The shape with the family's blocks.

        Raises:
            LuminaError: E002 for what the family has not.
        """
        name = str(config.get("block_style"))
        if name == "llama":
            return spec
        wanted = {"gpt2": ("learned", True), "phi": ("rope", False)}[name]
        if (spec.pos_encodings, spec.tie_embeddings) != wanted or spec.moe is not None:
            raise LuminaError(
                "E002",
                f"block_style {name} is for weights of that family: positions "
                f"{wanted[0]}, embeddings {'tied' if wanted[1] else 'not tied'}, no "
                "experts",
                f"name --pos-encodings {wanted[0]} and "
                f"--{'' if wanted[1] else 'no-'}tie-embeddings, or begin with the "
                "weights, which bring them: --init-from",
            )
        share = float(config.get("rotary_share") or 1.0)
        style = StyleSpec(name, share if name == "phi" else 1.0)
        return replace(spec, style=style, attention_bias=True)

    def options(self, spec: ModelSpec) -> dict[str, Any]:
        """The options that give them."""
        style = spec.style
        if style is None:
            return {"block_style": "llama", "rotary_share": 1.0}
        return {"block_style": style.name, "rotary_share": style.rotary_share}
