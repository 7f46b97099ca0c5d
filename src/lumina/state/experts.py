"""One named expert apart from its model: taken out, put in, kept in a file.

A named expert has one slice in every routed layer: a row of the router and an expert's
three matrices. Named experts hold the last places of a model, in the order of
`MoeSpec.names`; all before them are the base.
"""

from __future__ import annotations

import contextlib
import fnmatch
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from lumina.durable import write_error
from lumina.errors import LuminaError
from lumina.model.declared import tensor_info
from lumina.model.spec import ModelSpec, MoeSpec
from lumina.state.expert_surgery import add_expert
from lumina.state.readable import require_readable
from lumina.state.state import State
from lumina.state.tensor_file import write_tensors
from lumina.state.weights import InMemory, Weights

FILE_NAME = "expert.safetensors"

LEAVES = ("router.weight", "gate", "up", "down")
"""What an expert is made of in every routed layer."""

BIAS = "selection_bias"
"""The balancing bias of an expert, where its base has one."""

Expert = dict[str, Tensor]
"""`blocks.LAYER.LEAF` -> the expert's slice: [D], [M, D], [M, D], [D, M]; bias []."""


def place_of(spec: ModelSpec, name: str) -> int:
    """Which expert of the routed layers has that name.

    Raises:
        LuminaError: E005 when none has.
    """
    moe = _moe(spec)
    if name not in moe.names:
        known = ", ".join(moe.names) or "none"
        raise LuminaError(
            "E005", f"no expert {name} is attached", f"named experts here: {known}"
        )
    return moe.num_experts - len(moe.names) + moe.names.index(name)


def take_expert(weights: Weights, name: str) -> Expert:
    """The named expert's tensors, copied."""
    place = place_of(weights.spec, name)
    held = set(weights.source.names())
    return {
        f"blocks.{layer}.{leaf}": weights.source.tensor(_full(layer, leaf))[
            place
        ].clone()
        for layer in _moe(weights.spec).layers
        for leaf in (*LEAVES, BIAS)
        if _full(layer, leaf) in held
    }


def with_new_expert(weights: Weights, seed: int) -> Weights:
    """The weights with one more expert, a copy of the busiest, yet without a name."""
    moe = _moe(weights.spec)
    state = State(
        tensors={name: weights.source.tensor(name) for name in weights.source.names()},
        info=tensor_info(weights.spec),
        spec=weights.spec.to_dict(),
    )
    tensors = add_expert(state, seed=seed).tensors
    spec = replace(weights.spec, moe=replace(moe, num_experts=moe.num_experts + 1))
    return replace(weights, spec=spec, source=InMemory(tensors))


def attach(weights: Weights, expert: Mapping[str, Tensor], name: str) -> Weights:
    """The weights with the expert in the last place of every routed layer.

    Raises:
        LuminaError: E002 when it was made for another shape, or is attached already.
    """
    spec, moe = weights.spec, _moe(weights.spec)
    if name in moe.names:
        raise LuminaError("E002", f"{name} is attached already", "detach it first")
    _check_fit(spec, moe, expert, name)
    tensors = {n: weights.source.tensor(n) for n in weights.source.names()}
    for layer in moe.layers:
        for leaf in LEAVES:
            full = _full(layer, leaf)
            new = expert[f"blocks.{layer}.{leaf}"].to(tensors[full].dtype)
            tensors[full] = torch.cat([tensors[full], new[None]])
        load = tensors[_full(layer, "load")]
        load = torch.cat([load, load.mean(0, keepdim=True)])
        tensors[_full(layer, "load")] = load / load.sum()
        if (bias := tensors.get(_full(layer, BIAS))) is not None:
            own = expert.get(f"blocks.{layer}.{BIAS}", bias.mean())
            tensors[_full(layer, BIAS)] = torch.cat([bias, own.reshape(1)])
    changed = replace(
        moe, num_experts=moe.num_experts + 1, names=(*moe.names, name), trained=0
    )
    return replace(weights, spec=replace(spec, moe=changed), source=InMemory(tensors))


def detach(weights: Weights, name: str) -> Weights:
    """The weights without the named expert: what it was attached to."""
    spec, moe = weights.spec, _moe(weights.spec)
    place = place_of(spec, name)
    if moe.num_experts <= max(moe.top_k, 2):
        raise LuminaError(
            "E002",
            f"{moe.num_experts} experts are the fewest with moe_top_k {moe.top_k}",
            "nothing was detached",
        )
    tensors = {n: weights.source.tensor(n) for n in weights.source.names()}
    kept = torch.arange(moe.num_experts) != place
    for layer in moe.layers:
        for leaf in (*LEAVES, "load", BIAS):
            full = _full(layer, leaf)
            if full in tensors:
                tensors[full] = tensors[full][kept].clone()
        load = tensors[_full(layer, "load")]
        load /= load.sum().clamp(min=1e-12)
    changed = replace(
        moe,
        num_experts=moe.num_experts - 1,
        names=tuple(other for other in moe.names if other != name),
        trained=0,
        goal_bias=0.0,
    )
    return replace(weights, spec=replace(spec, moe=changed), source=InMemory(tensors))


def write_expert(path: Path, expert: Expert) -> None:
    """Write `expert.safetensors`, whole or not at all.

    Raises:
        LuminaError: E104, E106 or E204 when it cannot be written.
    """
    partial = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(partial, expert)
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise write_error(error, path) from error


def read_expert(path: Path) -> Expert:
    """Read `expert.safetensors`.

    Raises:
        LuminaError: E104 when it is not there, E106 when it may not be read, E303
            when it is damaged.
    """
    if not path.is_file():
        raise LuminaError(
            "E104", f"{path} does not exist", "train it: lumina train --expert-id NAME"
        )
    require_readable(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise LuminaError(
            "E303", f"{path} cannot be read ({error})", "train the expert again"
        ) from error


def base_patterns(spec: ModelSpec) -> tuple[str, ...]:
    """Patterns of `freeze` that hold everything but routers and routed experts."""
    _moe(spec)
    info = tensor_info(spec)
    trained = [
        name
        for name, one in info.items()
        if one.role == "expert" or name.endswith(".feedforward.router.weight")
    ]
    frozen = [n for n, one in info.items() if one.role != "buffer" and n not in trained]
    # One wildcard for all blocks, unless it also matches a trained tensor.
    patterns = {}
    for name in frozen:
        wide = re.sub(r"\.\d+\.", ".*.", name)
        patterns[name if fnmatch.filter(trained, wide) else wide] = True
    return tuple(patterns)


def _full(layer: int, leaf: str) -> str:
    return f"backbone.blocks.{layer}.feedforward.{leaf}"


def _moe(spec: ModelSpec) -> MoeSpec:
    if spec.moe is None:
        raise LuminaError(
            "E002",
            "this model has no experts, so none can be named",
            "the base of a named expert is trained with --use-moe",
        )
    return spec.moe


def _check_fit(
    spec: ModelSpec, moe: MoeSpec, expert: Mapping[str, Tensor], name: str
) -> None:
    """Refuse an expert of other layers or widths."""
    width, inner = spec.hidden_size, moe.intermediate_size
    shapes = {
        "router.weight": (width,),
        "gate": (inner, width),
        "up": (inner, width),
        "down": (width, inner),
    }
    wanted = {
        f"blocks.{layer}.{leaf}": shapes[leaf]
        for layer in moe.layers
        for leaf in LEAVES
    }
    found = {
        key: tuple(tensor.shape)
        for key, tensor in expert.items()
        if not key.endswith(BIAS)
    }
    if found != wanted:
        raise LuminaError(
            "E002",
            f"{name} was trained with another base: "
            f"{sorted(found.items() ^ wanted.items())[:4]}",
            "attach it to a model of the shape of its base",
        )
