"""What the options of weights in few bits mean. Needs no torch."""

from __future__ import annotations

from typing import Any, NamedTuple


class FewBits(NamedTuple):
    """A use of few bits.

    Attributes:
        use: "base": frozen matrices are held so; "training": weights that train are
            rounded so in each forward pass.
        codec: the name of an entry of `lumina.ops.low_bits`.
    """

    use: str
    codec: str


METHODS = {
    ("bnb", 4): FewBits("base", "nf4_double"),
    ("bnb", 8): FewBits("base", "int8"),
    ("llm_int8", 8): FewBits("base", "llm_int8"),
    ("int4", 4): FewBits("base", "int4"),
    ("fp8", 8): FewBits("base", "fp8"),
    ("quanto", 8): FewBits("training", "int8"),
    ("quanto", 4): FewBits("training", "nf4"),
    ("quanto_dynamic", 8): FewBits("training", "llm_int8"),
}
"""(method, bits) -> what they mean. The codecs of quanto and quanto_dynamic are those
that `--inference-precision int8`, `int4` and `llm_int8` use, so that what was trained
for is used."""

BITS = {"bnb": 4, "llm_int8": 8, "int4": 4, "fp8": 8, "quanto": 8, "quanto_dynamic": 8}
"""Bits of a method where none are named."""


def asked_few_bits(config: Any) -> FewBits | None:
    """What a configuration asks for; None: nothing, or what there is not.

    Args:
        config: has the section `quantization`.
    """
    asked = config.quantization
    method, bits = asked.quantization_method, int(asked.quantization_bits or 0)
    if asked.load_in_4bit or asked.load_in_8bit:
        method, bits = method or "bnb", 4 if asked.load_in_4bit else 8
    if method is None:
        return None
    return METHODS.get((method, bits or BITS.get(method, 4)))


def asked_base_storage(config: Any) -> str:
    """The codec of the frozen base that a configuration asks for, or ""."""
    found = asked_few_bits(config)
    return found.codec if found is not None and found.use == "base" else ""


def asked_rounding(config: Any) -> str:
    """The codec that weights which train are rounded by, or ""."""
    found = asked_few_bits(config)
    return found.codec if found is not None and found.use == "training" else ""
