"""Config options on the command line, made from the typed sections."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

from lumina.config import Config, Source
from lumina.config.leaves import (
    SWITCHED,
    allowed,
    choices,
    field,
    is_list,
    optional,
    understood,
    value_type,
)
from lumina.config.presets import DEFAULT_PRESET, find_preset
from lumina.config.provenance import show
from lumina.config.sections import LEAVES, SECTIONS
from lumina.config.spellings import SWITCHES, SYNONYMS, VALUES
from lumina.errors import LuminaError


def add_config_options(
    parser: argparse.ArgumentParser,
    *,
    leaves: Iterable[str] | None = None,
    dry_run: bool = False,
) -> None:
    """Add the options of a configuration, grouped by section.

    Values are kept as written: `Config` converts and checks them, so that a file, a
    flag and Python are refused in the same words.

    Args:
        leaves: only these options, without presets and files; default: all.
        dry_run: add `--dry-run` (for a command that acts on it).
    """
    wanted = set(LEAVES if leaves is None else leaves)
    if leaves is None:
        _add_start(parser)
    if dry_run:
        parser.add_argument(
            "--dry-run", action="store_true", help="show the plan; do nothing"
        )
    for name, section in SECTIONS.items():
        mine = [leaf for leaf in section.model_fields if leaf in wanted]
        if mine:
            group = parser.add_argument_group(name, _first_line(section))
            for leaf in mine:
                _add_leaf(group, leaf)


def flags_from_args(args: argparse.Namespace) -> dict[str, Any]:
    """The options that were given: leaf (or "preset") -> value as written.

    Options of `_THEIRS` keep their own names: `Config` reads them as they are meant.
    """
    given = vars(args)
    theirs = [_dest(flag) for flag in _THEIRS]
    return {name: given[name] for name in ("preset", *LEAVES, *theirs) if name in given}


def config_from_args(args: argparse.Namespace, base: Config | None = None) -> Config:
    """The configuration that the words of a command ask for.

    Args:
        base: lay the flags over this (a run being resumed) instead of over
            `--config-file` and `--preset`.

    With neither preset, file nor base, the preset is `DEFAULT_PRESET`.
    """
    flags = flags_from_args(args)
    if base is not None:
        return base.override(flags, Source("flag"))
    file = getattr(args, "config_file", None)
    preset = None
    if file is None and "preset" not in flags:
        preset = DEFAULT_PRESET
    return Config.resolve(preset=preset, file=file, flags=flags)


def print_warnings(config: Config) -> None:
    """Say on stderr which values are unusual."""
    for warning in config.warnings():
        print(f"warning: {warning}", file=sys.stderr)


def _add_start(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("start from")
    group.add_argument(
        "--preset",
        *[flag for flag in _spellings("preset") if flag != "--config"],
        metavar="NAME",
        default=argparse.SUPPRESS,
        help=f"a preset (`lumina presets` lists them); default: {DEFAULT_PRESET}, "
        "or what the file says",
    )
    group.add_argument(
        "--config",
        action=_PresetOrFile,
        metavar="NAME|FILE",
        default=argparse.SUPPRESS,
        help="a preset, or options in a file that ends in .yaml or .yml",
    )
    group.add_argument(
        "--config-file", metavar="FILE", help="options in YAML; flags override it"
    )
    group.add_argument(
        "--deepspeed",
        metavar="FILE",
        default=argparse.SUPPRESS,
        help="a configuration of DeepSpeed in JSON: its items become options",
    )
    group.add_argument(
        "--use-deepspeed",
        nargs="?",
        const="true",
        metavar="true",
        default=argparse.SUPPRESS,
        help="--parallel zero, unless --zero-stage says which stage",
    )


def _add_leaf(group: argparse._ArgumentGroup, leaf: str) -> None:
    flags = ["--" + leaf.replace("_", "-"), *_spellings(leaf)]
    common: dict[str, Any] = {
        "dest": leaf,
        "default": argparse.SUPPRESS,
        "help": _help(leaf),
    }
    if value_type(leaf) is bool:
        group.add_argument(*flags, action=_Switch, **common)
    elif is_list(leaf):
        bare = [flag for flag in flags if _dest(flag) in SWITCHES]
        plain = [flag for flag in flags if flag not in bare]
        group.add_argument(*plain, action=_Extend, nargs="+", metavar="X", **common)
        for flag in bare:
            words = {"metavar": "true", "help": f"{plain[0]} {_meant(flag)[0]}"}
            group.add_argument(flag, action=_Named, nargs="?", **common | words)
    elif leaf in SWITCHED:
        _add_switched(group, leaf, common)
    else:
        plain = [flag for flag in flags if flag not in _THEIRS]
        group.add_argument(*plain, action=_Value, metavar=_metavar(leaf), **common)
        for flag in flags:
            if flag in _THEIRS:
                theirs = common | {"dest": _dest(flag), "metavar": _metavar(leaf)}
                theirs["help"] = _help_of_theirs(flag, plain[0])
                group.add_argument(flag, **theirs, **_THEIRS[flag])


def _add_switched(
    group: argparse._ArgumentGroup, leaf: str, common: dict[str, Any]
) -> None:
    """A choice that the documents write as a switch: bare, and with --no-."""
    own, *others = ["--" + leaf.replace("_", "-"), *_spellings(leaf)]
    on, off = SWITCHED[leaf]
    # Only where off is "none" does --no-LEAF say what it means.
    bare: dict[str, Any] = {"nargs": "?", "const": on} if off == "none" else {}
    group.add_argument(own, metavar=_metavar(leaf), **bare, **common)
    negated = [f"--no-{flag[2:]}" for flag in ([own] if bare else []) + others]
    for flags, word in ((others, on), (negated, off)):
        group.add_argument(
            *flags,
            **{**common, "help": f"{own} {word}"},
            action="store_const",
            const=word,
        )


class _Switch(argparse.BooleanOptionalAction):
    """`--x` and `--no-x`; refuses `--x=yes` through the parser's own words."""


_THEIRS: dict[str, dict[str, Any]] = {
    "--max-steps": {},
    "--num-train-epochs": {},
    "--lr-scheduler-type": {},
    "--zero-stage": {},
    "--bf16": {"nargs": "?", "const": "true"},
    "--fp16": {"nargs": "?", "const": "true"},
    "--use-8bit-optimizer": {"nargs": "?", "const": "true"},
    "--ddp": {"nargs": "?", "const": "true"},
    "--parallel-independent": {"nargs": "?", "const": "true"},
    "--force-streaming": {"nargs": "?", "const": "true"},
    "--force-memory-loading": {"nargs": "?", "const": "true"},
    "--disable-sharding": {"nargs": "?", "const": "true"},
}
"""Options of another trainer that mean something else under its names: values for "not
set", a limit that wins over another, a schedule without warm-up."""


def _help_of_theirs(flag: str, own: str) -> str:
    if _dest(flag) in SWITCHES:
        return f"{own} {_meant(flag)}"
    if _dest(flag) in VALUES:
        return f"as DeepSpeed has it: {own} zero1, zero2, fsdp2 or zero"
    return f"as in transformers: {own}"


def _dest(flag: str) -> str:
    return flag.lstrip("-").replace("-", "_")


class _PresetOrFile(argparse.Action):
    """`--config` of a preset is `--preset`, and of a YAML file `--config-file`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        is_file = str(values).lower().endswith((".yaml", ".yml"))
        setattr(namespace, "config_file" if is_file else "preset", values)


class _Value(argparse.Action):
    """One value of an option that has several names.

    The same name may come again, and the last value counts: what a script sets can be
    followed by what a person sets. Two names with different values are a mistake, as
    they are in a file.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        name = f"_spelling_of_{self.dest}"
        before = getattr(namespace, name, option_string)
        if before != option_string and getattr(namespace, self.dest) != values:
            raise LuminaError(
                "E002",
                f"{self.dest} is set twice, as {before} "
                f"{getattr(namespace, self.dest)} and {option_string} {values}",
                "keep one of the two",
            )
        setattr(namespace, self.dest, values)
        setattr(namespace, name, option_string)


class _Extend(argparse.Action):
    """Several values, and the option several times."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        before = getattr(namespace, self.dest, [])
        setattr(namespace, self.dest, [*before, *values])


class _Named(argparse.Action):
    """A switch that stands for one value of a list: `--use-wandb`."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        flag = str(option_string)
        found = understood(_dest(flag), "true" if values is None else values)
        before = getattr(namespace, self.dest, [])
        named = [value for many in found.values() for value in many]  # type: ignore[attr-defined]
        setattr(namespace, self.dest, [*before, *named])


def _meant(flag: str) -> Any:
    return SWITCHES[_dest(flag)][1]


@cache
def _all_spellings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for spelling, leaf in SYNONYMS.items():
        found.setdefault(leaf, []).append("--" + spelling.replace("_", "-"))
    return found


def _spellings(leaf: str) -> list[str]:
    return _all_spellings().get(leaf, [])


def _metavar(leaf: str) -> str:
    if choices(leaf):
        return "{" + ",".join(choices(leaf)) + "}"
    names = {int: "N", float: "X", str: "TEXT"}
    return names.get(value_type(leaf), "X")


def _help(leaf: str) -> str:
    text = field(leaf).description or ""
    default = field(leaf).default
    first = find_preset(DEFAULT_PRESET).values.get(leaf, default)
    if first != default and default is None:
        text = f"{text}; of preset {DEFAULT_PRESET}: {show(first)}"
    elif first != default:
        # A run without flags has the preset's value.
        text = (
            f"{text} (default {show(first)} of preset {DEFAULT_PRESET}, without a "
            f"preset {show(default)})"
        )
    elif "default" not in text and not (default is None or default == ()):
        text = f"{text} (default {show(default)})"
    if optional(leaf) and value_type(leaf) is bool:
        text = f"{text}; {allowed(leaf)}"
    return text.replace("%", "%%")


def _first_line(section: type) -> str:
    return (section.__doc__ or "").strip().splitlines()[0]
