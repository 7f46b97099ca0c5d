"""Registered parts inside a network: making them, and what they say of themselves."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lumina.errors import LuminaError
from lumina.model.block import Block
from lumina.model.context import BlockContext
from lumina.model.initial import RULES
from lumina.model.plain_tensors import into_residual
from lumina.model.registry import Part, held_part, used_parts
from lumina.model.spec import ModelSpec
from lumina.model.tensors import (
    ONES,
    ROLES,
    ZEROS,
    Declared,
    Rule,
    Shape,
    made,
    normal,
)


def build_part(spec: ModelSpec, kind: str, name: str, *arguments: Any) -> nn.Module:
    """An instance of a registered class.

    Raises:
        LuminaError: E002 if it is not registered, E005 where it cannot be made (a
            ValueError of its own is an option or a shape that it refuses) or is not
            what the network needs.
    """
    assert spec.parts is not None
    part = held_part(kind, name, spec.parts.plugins)
    try:
        module = part.cls(spec, *arguments)
    except ValueError as error:
        raise LuminaError(
            "E005", f"the {kind} {name}: {error}", "it says so itself: see its code"
        ) from error
    except LuminaError:
        raise
    except Exception as error:
        raise LuminaError(
            "E005",
            f"the {kind} {name} cannot be made: {type(error).__name__}: {error}",
            "--debug shows where; fix the code of your plug-in, or its --part-options",
        ) from error
    _check_interface(module, kind, name, tied=spec.tie_embeddings)
    _check_tensors(module, kind, name)
    return module  # type: ignore[no-any-return]


def _check_interface(module: Any, kind: str, name: str, tied: bool) -> None:
    """Refuse a part without what the network will ask it for."""
    needed = {"backbone": ["blocks"], "objective": ["logits"]}.get(kind, ["forward"])
    if kind == "backbone" and tied:
        needed.append("embedding")  # the head is its weight
    absent = [attribute for attribute in needed if not hasattr(module, attribute)]
    if isinstance(module, nn.Module) and not absent:
        return
    hint = f"a {kind} is an nn.Module with {' and '.join(needed)}"
    if "embedding" in absent:
        hint += "; without an embedding, use --no-tie-embeddings"
    lacks = f"has no {absent[0]}" if absent else "is no nn.Module"
    raise LuminaError("E005", f"the {kind} {name} {lacks}", hint)


def _check_tensors(module: nn.Module, kind: str, name: str) -> None:
    """Refuse tensors that would stay without a value: networks are made without any."""
    for inner in module.modules():
        for attribute, value in vars(inner).items():
            if isinstance(value, Tensor):
                raise LuminaError(
                    "E005",
                    f"the {kind} {name} keeps the tensor {attribute}, which is neither "
                    "parameter nor buffer: networks are built without values, which "
                    "are set afterwards",
                    "register it as a buffer, and say in the static method "
                    "initial(name, shape, spec, generator) what it starts as",
                )


class PartedBlock(Block):
    """A `Block` of which attention or feed-forward are registered ones."""

    def forward(
        self, x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, S, D] to [B, S, D], and the sums of everything in it."""
        inner_bsd = self.attention_norm(x_bsd)
        y_bsd, sums_of_part = _split(self.attention(inner_bsd, context), inner_bsd)
        x_bsd = x_bsd + self._drop(y_bsd)
        inner_bsd = self.feedforward_norm(x_bsd)
        if hasattr(self.feedforward, "lumina_part"):
            y_bsd, aux = _split(self.feedforward(inner_bsd, context), inner_bsd)
        elif self.routed:
            y_bsd, aux = self.feedforward(inner_bsd, context.valid)
        else:
            y_bsd, aux = self.feedforward(inner_bsd), {}
        return x_bsd + self._drop(y_bsd), sums_of_part | aux


class WholeBlock(nn.Module):
    """A registered block, called as Lumina's own is."""

    routed = False

    def __init__(self, spec: ModelSpec, layer_index: int, name: str) -> None:
        super().__init__()
        self.inner = build_part(spec, "block", name, layer_index)

    def forward(
        self, x_bsd: Tensor, context: BlockContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """[B, S, D] to [B, S, D], and what it reports."""
        return _split(self.inner(x_bsd, context), x_bsd)


def _split(returned: Any, given: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """What a part returned, with or without reports, in the type of what it was given.

    Raises:
        LuminaError: E005 for another shape, which adding up might stretch unnoticed.
    """
    y, sums_of_part = returned if isinstance(returned, tuple) else (returned, {})
    if y.shape != given.shape:
        raise LuminaError(
            "E005",
            f"a registered part returns the shape {tuple(y.shape)} where it was given "
            f"{tuple(given.shape)}",
            "return [B, S, D], or a pair of that and its reports",
        )
    return y if y.dtype == given.dtype else y.to(given.dtype), sums_of_part


def collect_reports(
    spec: ModelSpec, layers: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """The sums and counts of attention, feed-forward and blocks, over all layers.

    Raises:
        LuminaError: E005 for a part that returns other keys or shapes than it declares.
    """
    found: dict[str, Tensor] = {}
    parts = used_parts(spec)
    declared = {key for part in parts for key in (*part.reports, *part.counts)}
    for key in {key for one in layers for key in one}:
        if key not in declared and not key.startswith("moe."):
            raise LuminaError(
                "E005",
                f"a registered part returns {key!r} and does not declare it",
                f"name it where it is registered: reports={{{key!r}: 0.0}}",
            )
    for part, count in parts.items():
        if part.kind in ("backbone", "objective"):
            continue
        for key in (*part.reports, *part.counts):
            values = [one[key].float() for one in layers if key in one]
            if len(values) != count:
                raise _not_returned(
                    part, key, "return (output, {key: sum over the valid tokens})"
                )
            if key in part.counts:
                found[key] = torch.stack(_of_shape(part, key, values)).sum(0)
            else:
                found[key] = torch.stack(values).sum()
    return found


def _of_shape(part: Part, key: str, values: list[Tensor]) -> list[Tensor]:
    """The counts of some layers, each of the declared shape."""
    for value in values:
        if tuple(value.shape) != part.counts[key]:
            raise LuminaError(
                "E005",
                f"the {part.kind} {part.name} returns {key!r} of shape "
                f"{tuple(value.shape)}, and declares {part.counts[key]}",
                "make the two agree: counts={key: shape} where it is registered",
            )
    return values


def _not_returned(part: Part, key: str, hint: str) -> LuminaError:
    return LuminaError(
        "E005",
        f"the {part.kind} {part.name} declares {key!r} and does not return it",
        hint,
    )


def part_tensors(spec: ModelSpec) -> dict[str, list[Declared]]:
    """The tensors of the registered parts of a model.

    Each part is built without values, once for each place that it has.

    Returns:
        Path of the module that a part takes the place of -> what it declares.
    """
    parts = spec.parts
    assert parts is not None
    found = {}
    for layer in range(spec.num_layers):
        block = f"backbone.blocks.{layer}"
        for kind, path, inner in (
            ("block", block, f"{block}.inner"),
            ("attention", f"{block}.attention", f"{block}.attention"),
            ("feedforward", f"{block}.feedforward", f"{block}.feedforward"),
        ):
            if name := parts.at(kind, layer):
                found[path] = _tensors_of(spec, kind, name, inner, layer)
    if parts.backbone:
        name, attention = parts.backbone, "sdpa"
        found["backbone"] = _tensors_of(spec, "backbone", name, "backbone", attention)
    if parts.objective:
        name, chunk = parts.objective, 2**28  # its tensors do not depend on the chunk
        found["objective"] = _tensors_of(spec, "objective", name, "objective", chunk)
    return found


def _tensors_of(
    spec: ModelSpec, kind: str, name: str, path: str, argument: str | int
) -> list[Declared]:
    """What one part declares: its own parameters and buffers, named in the network."""
    assert spec.parts is not None
    part = held_part(kind, name, spec.parts.plugins)
    with torch.device("meta"):
        module = build_part(spec, kind, name, argument)
    saved = module.state_dict(keep_vars=True)
    parameters = {inner for inner, _ in module.named_parameters()}
    return [
        _declared(spec, part, inner, tensor, path, inner in parameters, inner in saved)
        for inner, tensor in (saved | dict(module.named_buffers())).items()
    ]


def _declared(
    spec: ModelSpec,
    part: Part,
    inner: str,
    tensor: Tensor,
    path: str,
    is_parameter: bool,
    is_saved: bool,
) -> Declared:
    """One tensor of a part; `inner` is its name there.

    Raises:
        LuminaError: E005 for a role there is not, or axes of another number.
    """
    role, axes = _role_and_axes(part, inner, tensor)
    name, shape = f"{path}.{inner}", tuple(tensor.shape)
    usual = _usual_first(name, spec) if isinstance(tensor, nn.Parameter) else None
    first = made(partial(_first_value, spec, part, inner, usual))
    if usual is not None and part.hook("initial") is None:
        first = usual
    kind = "parameter" if is_parameter else "buffer" if is_saved else "transient"
    try:
        return Declared(name, shape, role, axes, first, kind=kind)
    except ValueError as error:
        raise LuminaError(
            "E005",
            f"{part.name}: {inner} of shape {shape} cannot be {role!r} with axes "
            f"{axes}",
            f"roles are {', '.join(ROLES)}; name every dimension",
        ) from error


def _role_and_axes(
    part: Part, inner: str, tensor: Tensor
) -> tuple[str, tuple[str, ...]]:
    """What the part says, else by the number of dimensions."""
    for ending, (role, axes) in part.tensors.items():
        if inner == ending or inner.endswith(f".{ending}"):
            return role, tuple(axes)
    axes = tuple(f"axis_{n}" for n in range(tensor.ndim))
    if not isinstance(tensor, nn.Parameter):
        return "buffer", axes
    for ending in ("embedding", "head"):  # as Lumina's own are called
        if inner.endswith(f"{ending}.weight"):
            return ending, ("vocab", "hidden")
    if inner.endswith("bias"):
        return "bias", axes
    return ("matrix" if tensor.ndim > 1 else "norm"), axes


def _usual_first(name: str, spec: ModelSpec) -> Rule:
    """How a parameter starts whose part says nothing about it: as Lumina's own do."""
    if name.endswith("norm.weight"):
        return ONES
    if name.endswith(".bias"):
        return ZEROS
    into = (".attention.out.weight", ".feedforward.down.weight", ".feedforward.down")
    if name.endswith((*into, ".feedforward.shared.down.weight")):
        return into_residual(spec)
    return normal(spec.init_std)


def _first_value(
    spec: ModelSpec,
    part: Part,
    inner: str,
    usual: Rule | None,
    shape: Shape,
    generator: torch.Generator,
) -> Tensor:
    """What the part's `initial` says a tensor starts as, else the usual value.

    Raises:
        LuminaError: E005 for a buffer without a value, or one of another shape.
    """
    hook = part.hook("initial")
    value = None
    if hook is not None:  # the usual value is drawn from the same numbers
        value = hook(inner, shape, spec, generator.clone_state())
    if value is not None and tuple(value.shape) != shape:
        raise LuminaError(
            "E005",
            f"{part.name}: initial gives {inner} the shape {tuple(value.shape)}, not "
            f"{shape}",
            "return a tensor of the shape that is its argument",
        )
    if value is not None:
        return value.float()  # type: ignore[no-any-return]
    if usual is None:
        raise LuminaError(
            "E005",
            f"nothing says what the buffer {inner} of {part.name} starts as: networks "
            "are built without values, which are set afterwards",
            "give the class a static method initial(name, shape, spec, generator)",
        )
    return RULES[usual.name](shape, generator, *usual.arguments)


def whole_reports(
    spec: ModelSpec, aux: dict[str, Tensor], terms: dict[str, Tensor]
) -> dict[str, Tensor]:
    """A batch's sums, with those of a registered backbone and objective.

    Args:
        aux: of the backbone's `Output`.
        terms: of the objective's `LossSums`.

    Raises:
        LuminaError: E005 for a part that does not return what it declares.
    """
    found = dict(aux)
    for part in used_parts(spec):
        if part.kind not in ("backbone", "objective"):
            continue
        source = aux if part.kind == "backbone" else terms
        for key in (*part.reports, *part.counts):
            if key not in source:
                where = "Output.aux" if part.kind == "backbone" else "LossSums.terms"
                raise _not_returned(part, key, f"put the sum over tokens into {where}")
            found[key] = source[key]
            if key in part.counts:
                _of_shape(part, key, [source[key]])
    return found
