"""The tensors that reasoners about puzzles and about text have in common."""

from __future__ import annotations

from dataclasses import replace

from lumina.model.spec import ModelSpec
from lumina.model.tensors import (
    ZEROS,
    Declared,
    Tensors,
    add,
    constant,
    truncated,
)

HALTING_BIAS = -5.0
"""Logits of the halting head at first: almost surely not to halt, and not to go on."""


def declare_reasoner(spec: ModelSpec, tensors: Tensors) -> None:
    """Blocks whose norms have no weight, a halting head, and two first states.

    Matrices start as truncated LeCun: variance 1 / inputs.
    """
    for name, one in list(tensors.items()):
        if one.role == "norm":
            del tensors[name]
        else:
            tensors[name] = replace(one, first=truncated(one.shape[-1] ** -0.5))
    width, path = spec.hidden_size, "backbone.halting"
    add(
        tensors,
        # Like a router, the halting head decides in float32.
        Declared(f"{path}.weight", (2, width), "router", ("choice", "hidden"), ZEROS),
        Declared(f"{path}.bias", (2,), "router", ("choice",), constant(HALTING_BIAS)),
        *(
            Declared(
                f"backbone.{state}",
                (width,),
                "buffer",
                ("hidden",),
                truncated(1.0, fixed=True),
                kind="buffer",
            )
            for state in ("h_init", "l_init")
        ),
    )
