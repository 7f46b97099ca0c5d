"""Experts added to and taken out of a State: weights, optimizer states, buffers, shape.

All routed layers have equally many experts, so an edit changes every one of them. What
belongs to experts is known by its first axis, whatever its name: router rows, expert
matrices, loads, biases, the averages of those that train, and each optimizer state that
is declared to share that axis.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from lumina.errors import LuminaError
from lumina.optim.declared import StateTensor, chosen_optimizer
from lumina.optim.groups import optimizer_of, parse_groups
from lumina.state.state import State

NOISE = 0.01
"""Spread of what tells a new expert from its model, over the spread of the weights."""

Edit = Callable[[int, str, Tensor], Tensor]
"""(layer, last part of the name, tensor) to the edited tensor."""


def add_expert(
    state: State, *, how: str = "busiest", noise: float = NOISE, seed: int = 0
) -> State:
    """Every routed layer gets one more expert, its last, made from the existing ones.

    "busiest": a copy of the expert with the highest load, told apart by noise on its
    matrices and router row; the two share that load, and its tokens. "mean": the mean
    of all experts and of their router rows, with the same noise. States and averages
    are copied, or averaged, likewise; states of a few bits are always copied.

    Args:
        state: with whole tensors; it is not changed.
        how: "busiest" or "mean".
        noise: spread of the noise relative to that of each tensor's own values.
        seed: of the noise; the same on every rank.

    Returns:
        A State whose `spec` and `plan` say so, sharing unedited tensors.

    Raises:
        LuminaError: E002 for a model without experts, E005 for another `how`.
    """
    _moe_of(state)
    if how not in ("busiest", "mean"):
        raise LuminaError(
            "E005",
            f"there is no way {how!r} to make an expert",
            "choose busiest or mean",
        )
    models = {layer: int(load.argmax()) for layer, load in _loads(state).items()}

    def grown(tensor: Tensor, layer: int) -> Tensor:
        if how == "mean":
            return tensor.float().mean(0, keepdim=True).to(tensor.dtype)
        return tensor[models[layer] : models[layer] + 1]

    def weights(layer: int, leaf: str, tensor: Tensor) -> Tensor:
        new = grown(tensor, layer)
        if leaf == "load":
            new, tensor = _shared_load(tensor, models[layer], how)
        elif leaf != "selection_bias":
            new = told_apart(new, tensor, noise, seed, f"{layer}.{leaf}.{len(tensor)}")
        return torch.cat([tensor, new])

    def states(layer: int, leaf: str, tensor: Tensor) -> Tensor:
        return torch.cat([tensor, grown(tensor, layer)])

    def codes(layer: int, leaf: str, tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor[models[layer] : models[layer] + 1]])

    return _edited(state, weights, states, codes, change=1)


def prune_expert(state: State, chosen: Mapping[int, int] | None = None) -> State:
    """Every routed layer loses one expert; its router row goes, so others are chosen.

    Args:
        state: with whole tensors; it is not changed.
        chosen: layer -> the expert to take out; other layers lose the expert with the
            lowest load.

    Returns:
        A State whose `spec` and `plan` say so, sharing unedited tensors.

    Raises:
        LuminaError: E002 for a model without experts or with too few, E005 for a layer
            or an expert there is not.
    """
    moe = _moe_of(state)
    check_prunable(moe, chosen or {})
    victims = {layer: int(load.argmin()) for layer, load in _loads(state).items()}
    victims |= dict(chosen or {})

    def states(layer: int, leaf: str, tensor: Tensor) -> Tensor:
        kept = torch.arange(len(tensor)) != victims[layer]
        return tensor[kept].clone()

    def weights(layer: int, leaf: str, tensor: Tensor) -> Tensor:
        rest = states(layer, leaf, tensor)
        return rest / rest.sum().clamp(min=1e-12) if leaf == "load" else rest

    return _edited(state, weights, states, states, change=-1)


def check_prunable(moe: Mapping[str, Any], chosen: Mapping[int, int]) -> None:
    """Refuse what cannot be taken out; arguments as of `prune_expert`."""
    experts = moe["num_experts"]
    if experts <= max(moe["top_k"], 2):
        raise LuminaError(
            "E002",
            f"{experts} experts are the fewest there can be with "
            f"moe_top_k {moe['top_k']}",
            "nothing was pruned",
        )
    for layer, expert in chosen.items():
        if layer not in moe["layers"]:
            raise LuminaError(
                "E005",
                f"block {layer} has no experts",
                f"routed blocks are {', '.join(map(str, moe['layers']))}",
            )
        if not 0 <= expert < experts:
            raise LuminaError(
                "E005", f"there is no expert {expert}", f"they are 0 to {experts - 1}"
            )


def _moe_of(state: State) -> dict[str, Any]:
    moe: dict[str, Any] | None = state.spec.get("moe")
    if moe is None:
        raise LuminaError("E002", "this model has no experts", "train with --use-moe")
    for rule, broken in (
        ("are chosen by group, and groups are equal", moe.get("groups", 1) > 1),
        ("have names, and named ones hold the last places", bool(moe.get("names"))),
    ):
        if broken:
            raise LuminaError(
                "E002",
                f"experts that {rule} are neither added nor pruned",
                "named ones are attached and detached with `lumina experts`",
            )
    return moe


def _layer_of(name: str) -> int:
    """`backbone.blocks.3.feedforward.gate` -> 3."""
    return int(name.split(".blocks.")[1].split(".")[0])


def _loads(state: State) -> dict[int, Tensor]:
    """Layer -> each expert's share of the last step's assignments."""
    return {
        _layer_of(name): tensor
        for name, tensor in state.tensors.items()
        if name.endswith(".feedforward.load")
    }


def _shared_load(load: Tensor, model: int, how: str) -> tuple[Tensor, Tensor]:
    """(the new expert's load, the others'): together one."""
    if how == "mean":
        new = load.mean(0, keepdim=True)
        return new / (1 + new), load / (1 + new)
    halved = load.clone()
    halved[model] /= 2
    return halved[model : model + 1], halved


def told_apart(
    new: Tensor, existing: Tensor, noise: float, seed: int, name: str
) -> Tensor:
    """A new expert's tensor with noise on it, which depends on (seed, name) alone.

    Args:
        new: made from the existing experts.
        existing: that of all of them, whose spread scales the noise.
        noise: spread of the noise over that of `existing`.
        seed: the same on every rank.
        name: another one for every tensor.
    """
    spread = noise * existing.float().std()
    return (new.float() + spread * _draw(new, seed, name)).to(existing.dtype)


def _draw(like: Tensor, seed: int, name: str) -> Tensor:
    """Normal noise that depends on (seed, name) alone."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    return torch.randn(like.shape, generator=generator)


def _edited(
    state: State, weights: Edit, states: Edit, codes: Edit, change: int
) -> State:
    """The State with every tensor that has an expert axis edited.

    Args:
        state: with whole tensors.
        weights: the edit of weights and buffers.
        states: that of optimizer states and averages.
        codes: that of states of which there is no mean.
        change: how many experts there are more.
    """

    def edited(
        held: dict[str, Tensor], edit: Edit, slot: str | None = None
    ) -> dict[str, Tensor]:
        return {
            name: edit(_layer_of(name), name.rpartition("feedforward.")[2], tensor)
            if _has_experts(state, name, slot)
            else tensor
            for name, tensor in held.items()
        }

    parts = copy.deepcopy(state.json_parts())
    for spec in (parts["spec"], parts["plan"].get("spec")):
        if spec is not None:
            spec["moe"]["num_experts"] += change
    return State(
        tensors=edited(state.tensors, weights),
        optimizer={
            # The average is of weights, and stays beside them without noise.
            slot: {
                name: edited(
                    {name: tensor}, codes if _coded(state, name, slot) else states, slot
                )[name]
                for name, tensor in held.items()
            }
            for slot, held in state.optimizer.items()
        },
        info=dict(state.info),
        **parts,
    )


def _has_experts(state: State, name: str, slot: str | None) -> bool:
    """Whether a tensor's first axis is that of the experts.

    Args:
        state: says what its tensors are, and which optimizer trains each.
        name: of a weight or buffer.
        slot: for what is kept beside a weight, its place in `State.optimizer`.
    """
    info = state.info[name]
    if slot is None or info.axes[:1] != ("expert",):
        return info.axes[:1] == ("expert",)
    declared = _declared(state, name, slot)
    return declared is None or declared.shares(0, len(info.axes))


def _coded(state: State, name: str, slot: str) -> bool:
    """Whether what is kept beside a weight has no mean."""
    declared = _declared(state, name, slot)
    return declared is not None and declared.coded


def _declared(state: State, name: str, slot: str) -> StateTensor | None:
    """The declaration of an optimizer's state; None for an average of the weight."""
    groups = parse_groups(state.plan.get("optimizer_groups", ()))
    info, main = state.info[name], state.plan["optimizer"]
    optimizer = optimizer_of(name, info.role, main, groups, len(info.axes))
    return chosen_optimizer(optimizer).states.get(slot)
