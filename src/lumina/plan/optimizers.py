"""The optimizers of a run: which tensors each one trains, with which options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lumina.config.option_values import value_like
from lumina.errors import LuminaError
from lumina.model import tensors
from lumina.model.spec import ModelSpec
from lumina.optim.declared import Declared, chosen_optimizer
from lumina.optim.groups import (
    Factor,
    Group,
    factor_of,
    optimizer_of,
    parse_factors,
    parse_groups,
)
from lumina.parallel.way import Way
from lumina.plan.count import trainable
from lumina.plan.decisions import Decisions, source_of
from lumina.plan.plan import Plan
from lumina.plan.transfer import check_optimizers
from lumina.similar_names import did_you_mean

if TYPE_CHECKING:
    from lumina.config import Config

SETTINGS = ("beta1", "beta2", "eps")
"""Options of every run that some optimizers read and others do not."""


FACTORS = {
    "group_learning_rates": "learning rate",
    "group_weight_decays": "weight decay",
}
"""Options that multiply something for the tensors that a pattern matches, and what."""


def decide_optimizers(config: Config, spec: ModelSpec, decisions: Decisions) -> None:
    """Fix the optimizer, its groups, and the options of each.

    Raises:
        LuminaError: E005 for an optimizer, option or value that there is not, and for
            a pattern that matches nothing; E002 for a tensor that its optimizer cannot
            train.
    """
    train = config.train
    used = _used(spec, train.optimizer, train.optimizer_groups, train.freeze)
    main = chosen_optimizer(train.optimizer)
    names = dict.fromkeys([main.name, *(declared.name for _, declared in used)])
    declared = [chosen_optimizer(name) for name in names]
    _check_averages(config, declared)
    check_optimizers(decisions, [one for _, one in used])
    cost = f"{main.words}, {main.bytes_per_parameter:g} bytes for each parameter"
    decisions.decide(
        "optimizer", main.name, f"{source_of(config, 'optimizer')}: {cost}"
    )
    decisions.decide(
        "optimizer_groups", train.optimizer_groups, _shares(config, used, main)
    )
    decisions.decide(
        "optimizer_options",
        _options(train.optimizer_options, declared),
        source_of(config, "optimizer_options"),
    )
    for option, what in FACTORS.items():
        factors = parse_factors(getattr(train, option), option)
        why = source_of(config, option)
        if factors:
            sizes = _factors(spec, factors, option, train.freeze)
            why += f": {_factored(sizes, what)}"
        decisions.decide(option, getattr(train, option), why)
    if main.rest is not None and main not in [one for _, one in used]:
        decisions.warn(
            f"{main.name} trains nothing of this run: {main.rest} trains all of it, "
            f"for no tensor that trains is of the role {' or '.join(main.roles)}"
        )
    if main.advice is not None and not config.is_chosen("learning_rate"):
        decisions.warn(f"learning_rate is not chosen: {main.advice}")
    read = {leaf for one in declared for leaf in one.settings.values()}
    for leaf in SETTINGS:
        unread = leaf not in read and config.is_chosen(leaf)
        if unread and not config.is_default(leaf):
            decisions.warn(
                f"{leaf} is set but has no effect: optimizer {main.name} has none"
            )


class StateBytes(NamedTuple):
    """What the optimizers keep for each parameter that trains, on average.

    Attributes:
        kept: bytes.
        whole: those of them that every rank keeps where weights are divided by rows.
    """

    kept: float
    whole: float


def bytes_per_parameter(
    spec: ModelSpec, optimizer: str, groups: Sequence[str], freeze: Sequence[str]
) -> StateBytes:
    """What the optimizers keep for each parameter that trains.

    Args:
        spec: the model's shape.
        optimizer: of the tensors that no group names.
        groups: PATTERN=OPTIMIZER.
        freeze: patterns of parameters that do not train.
    """
    kept = whole = size = 0.0
    for tensor, declared in _used(spec, optimizer, groups, freeze):
        if not tensor.sparse:
            pieces = max(len(tensor.pieces), 1)
            kept += declared.bytes_for(tensor.shape, pieces)
            whole += declared.whole_bytes_for(tensor.shape, pieces)
            size += tensor.size
    return StateBytes(kept / size, whole / size) if size else StateBytes(0.0, 0.0)


def fitting_ways(
    config: Config, spec: ModelSpec, ways: Sequence[type[Way]]
) -> list[type[Way]]:
    """Those ways of sharing the work in which every optimizer of a run can be used.

    Raises:
        LuminaError: E002 where there is none.
    """
    train = config.train
    used = _used(spec, train.optimizer, train.optimizer_groups, train.freeze)
    whole = sorted({one.name for _, one in used if not one.sharded})
    left = [way for way in ways if not (way.sharded and whole)]
    if left:
        return left
    raise LuminaError(
        "E002",
        f"the optimizer {whole[0]} cannot be used with parallel "
        f"{' or '.join(way.name for way in ways)}, which divides every weight over "
        "the processes",
        "choose another --parallel, or another optimizer",
    )


def values_of(plan: Plan, declared: Declared) -> dict[str, Any]:
    """The value of every option of an optimizer, and of the settings that it reads."""
    own = plan.optimizer_options.get(declared.name, {})
    settings = {
        option: getattr(plan, leaf) for option, leaf in declared.settings.items()
    }
    return (
        {name: one.default for name, one in declared.options.items()} | own | settings
    )


def _used(
    spec: ModelSpec, optimizer: str, texts: Sequence[str], freeze: Sequence[str]
) -> list[tuple[tensors.Declared, Declared]]:
    """Every parameter that trains, and its optimizer."""
    groups = parse_groups(texts)
    for group in groups:
        chosen_optimizer(group.optimizer, "optimizer_groups")
    found, matched = [], set[Group]()
    for tensor in trainable(spec, freeze):
        role, names = tensor.role, tensor.logical_names
        dimensions = len(tensor.shape)
        chosen = {
            name: optimizer_of(name, role, optimizer, groups, dimensions)
            for name in names
        }
        _check_fused(chosen)
        declared = chosen_optimizer(chosen[names[0]])
        for name in names:
            _check_role(declared, name, role, dimensions)
            matched.update(g for g in groups if g.matches(name, role))
        found.append((tensor, declared))
    for group in groups:
        if group not in matched:
            raise LuminaError(
                "E005",
                f"optimizer_groups {group.pattern}={group.optimizer} matches no "
                "parameter that trains",
                "patterns are globs, such as '*.feedforward.*', or role:matrix",
            )
    return found


def _check_fused(chosen: Mapping[str, str]) -> None:
    """Tensors that share one matrix in memory have one optimizer."""
    if len(set(chosen.values())) > 1:
        told = ", ".join(f"{name} by {optimizer}" for name, optimizer in chosen.items())
        raise LuminaError(
            "E005",
            f"optimizer_groups would train {told}, which share one matrix in memory",
            "let a pattern match all of them or none",
        )


def _check_averages(config: Config, declared: Sequence[Declared]) -> None:
    """Refuse an average beside an optimizer that evaluates one of its own."""
    for one in declared:
        for option in ("ema_decay", "swa_start", "lookahead_steps"):
            if one.evaluates and config.get(option):
                raise LuminaError(
                    "E002",
                    f"{option} {config.get(option):g} and the optimizer {one.name} "
                    "both say which weights evaluation uses",
                    f"leave one of them out: --{option.replace('_', '-')} 0, or "
                    "another optimizer",
                )
        pulled = config.get("preservation_method") == "weights"
        if one.evaluates and pulled and config.get("preserve_base_knowledge"):
            raise LuminaError(
                "E002",
                "preserve_base_knowledge pulls the weights that train, and the "
                f"optimizer {one.name} evaluates others, which it would miss",
                "leave one of them out",
            )


def _check_role(declared: Declared, name: str, role: str, dimensions: int) -> None:
    if declared.trains(role, dimensions):
        return
    what = f"whose role is {role}"
    if role in declared.roles:
        what = f"which has {dimensions} dimensions and needs {declared.dimensions}"
    raise LuminaError(
        "E002",
        f"the optimizer {declared.name} cannot train {name}, {what}",
        f"it trains {', '.join(declared.roles)}; give {name} to another optimizer, "
        f"such as --optimizer-groups role:{role}=adamw",
    )


def _shares(
    config: Config, used: Sequence[tuple[tensors.Declared, Declared]], main: Declared
) -> str:
    """What each optimizer trains, in words."""
    sizes: dict[str, int] = {}
    for tensor, declared in used:
        sizes[declared.name] = sizes.get(declared.name, 0) + tensor.size
    whole = sum(sizes.values())
    told = ", ".join(
        f"{name} trains {size / whole:.1%} of the parameters"
        for name, size in sizes.items()
    )
    source = source_of(config, "optimizer_groups")
    if sizes.keys() <= {main.name}:
        return source
    if main.rest is not None:
        told += f"; {main.name} trains tensors of the role {' or '.join(main.roles)}"
        told += f" and {main.rest} the others, where no group says otherwise"
    return f"{source}: {told}"


def _factors(
    spec: ModelSpec, factors: Sequence[Factor], option: str, freeze: Sequence[str]
) -> dict[float, int]:
    """How many parameters each factor is that of.

    Raises:
        LuminaError: E005 for a pattern that matches nothing, that matches some of the
            tensors that share one matrix in memory, or for a rate of 0.
    """
    sizes: dict[float, int] = {}
    matched = set[Factor]()
    for tensor in trainable(spec, freeze):
        found = {
            name: factor_of(name, tensor.role, factors) for name in tensor.logical_names
        }
        if len(set(found.values())) > 1:
            told = ", ".join(f"{name} by {value:g}" for name, value in found.items())
            raise LuminaError(
                "E005",
                f"{option} would multiply {told}, which share one matrix in memory",
                "let a pattern match all of them or none",
            )
        for name in found:
            matched.update(f for f in factors if f.matches(name, tensor.role))
        factor = found[tensor.logical_names[0]]
        sizes[factor] = sizes.get(factor, 0) + tensor.size
    for one in factors:
        if one not in matched:
            raise LuminaError(
                "E005",
                f"{option} {one.pattern}={one.value:g} matches no parameter that "
                "trains",
                "patterns are globs, such as '*.feedforward.*', or role:matrix",
            )
        if one.value == 0 and option == "group_learning_rates":
            raise LuminaError(
                "E005",
                f"{option} {one.pattern}=0 would train nothing there",
                "use --freeze for it, or a factor above 0",
            )
    return sizes


def _factored(sizes: Mapping[float, int], what: str) -> str:
    """What is multiplied by what, in words."""
    whole = sum(sizes.values())
    return ", ".join(
        f"{value:g} times the {what} for {size / whole:.1%} of the parameters"
        for value, size in sizes.items()
        if value != 1
    )


def _options(
    given: Sequence[str], declared: Sequence[Declared]
) -> dict[str, dict[str, Any]]:
    """Each optimizer's own options: the defaults, and over them what was given."""
    found = {
        one.name: {name: option.default for name, option in one.options.items()}
        for one in declared
        if one.options
    }
    for text in given:
        optimizer, option, written = _parsed(text, declared)
        where = f"optimizer_options {text}"
        held = found.get(optimizer.name, {})
        if option in optimizer.settings:
            flag = optimizer.settings[option].replace("_", "-")
            raise LuminaError(
                "E005",
                f"{where}: {option} is an option of every run",
                f"set it with --{flag}",
            )
        if option not in held:
            meant = did_you_mean(option, held)
            raise LuminaError(
                "E005",
                f"{where}: the optimizer {optimizer.name} has no option {option!r}",
                f"{meant}it has {', '.join(held) or 'none'}",
            )
        entry = optimizer.options[option]
        value = value_like(entry.default, written, where)
        if limits := entry.limits(value):
            raise LuminaError(
                "E005", f"{where}: {value!r} is out of range", f"it is {limits}"
            )
        held[option] = value
    return found


def _parsed(text: str, declared: Sequence[Declared]) -> tuple[Declared, str, str]:
    """The optimizer, the option and the value of [OPTIMIZER.]OPTION=VALUE."""
    key, equals, written = text.partition("=")
    name, dot, option = key.rpartition(".")
    if not equals or not option:
        raise LuminaError(
            "E005",
            f"optimizer_options cannot be {text!r}",
            "write OPTION=VALUE, or OPTIMIZER.OPTION=VALUE for one of several",
        )
    if not dot:
        return declared[0], option, written
    for one in declared:
        if one.name == name:
            return one, option, written
    raise LuminaError(
        "E005",
        f"optimizer_options {text}: {name!r} is no optimizer of this run",
        f"it uses {', '.join(one.name for one in declared)}",
    )
