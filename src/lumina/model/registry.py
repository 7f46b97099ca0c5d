"""Parts of a model that are the user's own: registered by name, chosen by option.

A file of the user's holds a class under a decorator::

    @lumina.register_attention("gated_linear")
    class GatedLinearAttention(nn.Module): ...

and `--plugins that_file.py --attention-type gated_linear` trains with it. Plug-ins are
code: they are run when the user names them, or imports them, and never because a
checkpoint, a run or a downloaded folder mentions them. `docs/extending.md` has it all.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.similar_names import did_you_mean

STANDARD = "standard"
"""The name of Lumina's own part of every kind."""

OPTION_OF = {
    "block": "block_type",
    "attention": "attention_type",
    "feedforward": "feedforward_type",
    "backbone": "backbone",
    "objective": "objective",
}
"""Kind of part -> the option that chooses it."""

C = TypeVar("C", bound=type)


@dataclass(frozen=True, eq=False)
class Part:
    """A registered class, and what it says of itself.

    Attributes:
        kind: a key of `OPTION_OF`.
        name: what the option calls it.
        cls: the class.
        source: the file it stands in.
        options: its options with their defaults.
        reports: key of `aux` -> weight in the loss, a number or the name of an option;
            0 only reports.
        tensors: ending of a parameter's name -> (role, axes) where the default, matrix
            or norm by the number of dimensions, is wrong.
        counts: key of `aux` -> shape of what it counts in a step, float32 without
            gradient; layers, micro-batches and ranks add up.
    """

    kind: str
    name: str
    cls: type
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    reports: Mapping[str, float | str] = field(default_factory=dict)
    tensors: Mapping[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    counts: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def hook(self, name: str) -> Callable[..., Any] | None:
        """A static method that the class may have.

        `extra_flops`, `kept_bytes` and `initial` describe its cost and first values;
        `after(network, counted, skip)` changes the network after a step, and
        `metrics(spec, counted)` gives keys of a metrics row.
        """
        return getattr(self.cls, name, None)


_PARTS: dict[str, Part] = {}
_LOADED: dict[str, None] = {}


def register_attention(name: str, **says: Any) -> Callable[[C], C]:
    """A decorator that makes a class the attention of `--attention-type NAME`.

    The class is called as `cls(spec, layer_index)`. Its `forward(x [B, S, D], context)`
    returns [B, S, D], or that and a dict of what `reports` names.

    Args:
        name: what the option calls it.
        says: `options`, `reports`, `counts`, `tensors` and more that the part says of
            itself, as fields of `Part`.
    """
    return _register("attention", name, **says)


def register_feedforward(name: str, **says: Any) -> Callable[[C], C]:
    """A decorator that makes a class the feed-forward of `--feedforward-type NAME`.

    The class is called and used like one of `register_attention`.
    """
    return _register("feedforward", name, **says)


def register_block(name: str, **says: Any) -> Callable[[C], C]:
    """A decorator that makes a class the block of `--block-type NAME`.

    The class is called and used like one of `register_attention`; it adds its own
    residual connections.
    """
    return _register("block", name, **says)


def register_backbone(name: str, **says: Any) -> Callable[[C], C]:
    """A decorator that makes a class the backbone of `--backbone NAME`.

    The class is called as `cls(spec, attention)`. Its `forward(batch, carry=None,
    cache=None)` returns an `Output`, and it has the attributes `blocks` (an
    `nn.ModuleList`) and `compute_dtype`. `says` is as of `register_attention`.
    """
    return _register("backbone", name, **says)


def register_objective(name: str, **says: Any) -> Callable[[C], C]:
    """A decorator that makes a class the objective of `--objective NAME`.

    The class is called as `cls(spec, loss_chunk_bytes)`. Its `forward(output, batch,
    tied)` returns `LossSums`, and its `logits(hidden, tied)` the scores of tokens.
    `says` is as of `register_attention`.
    """
    return _register("objective", name, **says)


def _register(
    kind: str,
    name: str,
    *,
    options: Mapping[str, Any] | None = None,
    reports: Mapping[str, float | str] | None = None,
    tensors: Mapping[str, tuple[str, tuple[str, ...]]] | None = None,
    counts: Mapping[str, tuple[int, ...]] | None = None,
) -> Callable[[C], C]:
    """A decorator; the arguments are described at `Part`."""

    def decorate(cls: C) -> C:
        part = Part(
            kind,
            name,
            cls,
            _source(cls),
            dict(options or {}),
            dict(reports or {}),
            dict(tensors or {}),
            {key: tuple(shape) for key, shape in (counts or {}).items()},
        )
        _check(part)
        _PARTS[name] = part
        cls.lumina_part = part  # type: ignore[attr-defined]
        return cls

    return decorate


def _source(cls: type) -> str:
    """The file a class stands in; where there is none, its module."""
    try:
        return str(Path(inspect.getfile(cls)).resolve())
    except (OSError, TypeError):
        return cls.__module__


def _check(part: Part) -> None:
    """Refuse a name that is taken and what could not be reported."""
    name = part.name
    if not name.isidentifier() or name == STANDARD:
        raise LuminaError(
            "E005",
            f"a part cannot be called {name!r}",
            "use letters, digits and _, and not the name of Lumina's own, standard",
        )
    taken = _PARTS.get(name)
    here = (part.kind, part.source, part.cls.__qualname__)
    if taken is not None and (taken.kind, taken.source, taken.cls.__qualname__) != here:
        raise LuminaError(
            "E005",
            f"{name!r} already names the {taken.kind} of {taken.source}",
            "names are one for all kinds: choose another",
        )
    for key in part.counts:
        if not key.startswith(f"{name}.") or key in part.reports:
            raise LuminaError(
                "E005",
                f"the {part.kind} {name} cannot count {key!r}",
                f"keys begin with '{name}.', and none is among the reports too",
            )
    for key, weight in part.reports.items():
        if not key.startswith(f"{name}.") or (
            isinstance(weight, str) and weight not in part.options
        ):
            raise LuminaError(
                "E005",
                f"the {part.kind} {name} cannot report {key!r} with weight {weight!r}",
                f"keys begin with '{name}.'; a weight is a number or one of its "
                f"options ({', '.join(part.options) or 'it has none'})",
            )


def known(kind: str) -> tuple[str, ...]:
    """Registered names of a kind."""
    return tuple(sorted(n for n, part in _PARTS.items() if part.kind == kind))


def chosen_part(kind: str, name: str) -> Part:
    """The part that an option names.

    Raises:
        LuminaError: E005, naming the nearest and how to register one.
    """
    part = _PARTS.get(name)
    if part is not None and part.kind == kind:
        return part
    option = "--" + OPTION_OF[kind].replace("_", "-")
    if part is not None:
        raise LuminaError(
            "E005",
            f"{name!r} is registered as {part.kind}, not as {kind}",
            f"choose it with --{OPTION_OF[part.kind].replace('_', '-')}",
        )
    meant = did_you_mean(name, [*known(kind), STANDARD])
    there = ", ".join([STANDARD, *known(kind)])
    raise LuminaError(
        "E005",
        f"{option} {name}: there is no such {kind}",
        f"{meant}there are {there}; your own is a class under "
        f"@lumina.register_{kind}({name!r}) in a file named with --plugins",
    )


def held_part(kind: str, name: str, plugins: Iterable[str]) -> Part:
    """The part that a saved model has.

    Args:
        plugins: what it was trained with; named in the error, not loaded.

    Raises:
        LuminaError: E002, with the option that loads it.
    """
    part = _PARTS.get(name)
    if part is not None and part.kind == kind:
        return part
    raise LuminaError(
        "E002",
        f"the model's {kind} {name!r} is not Lumina's own, and plug-ins are loaded "
        "only when you name them",
        f"add --plugins {' '.join(plugins) or 'FILE'} (code that will run as yours: "
        "look at it first if it is not); in Python, import it",
    )


def missing(names: Iterable[str]) -> list[str]:
    """Those names that nothing is registered under."""
    return [name for name in names if name not in _PARTS]


def load_plugins(plugins: Iterable[str]) -> None:
    """Run files of the user's (or import modules), so that they register their parts.

    Args:
        plugins: paths of .py files, or names of modules that Python finds.

    Raises:
        LuminaError: E104 for one that is not there, E005 for one that fails.
    """
    for plugin in plugins:
        path = Path(plugin).expanduser()
        key = str(path.resolve()) if path.suffix == ".py" else plugin
        if key in _LOADED:
            continue
        if path.suffix == ".py" and not path.is_file():
            raise LuminaError(
                "E104", f"there is no plug-in {plugin}", "name a .py file or a module"
            )
        try:
            if path.suffix == ".py":
                _run_file(path.resolve())
            else:
                importlib.import_module(plugin)
        except ModuleNotFoundError as error:
            if error.name != plugin.split(".")[0]:
                raise _failed(plugin, error) from error
            raise LuminaError(
                "E104",
                f"there is no module {plugin} to load as a plug-in",
                "name a .py file, or a module that this Python can import",
            ) from error
        except LuminaError:
            raise
        except Exception as error:
            raise _failed(plugin, error) from error
        _LOADED[key] = None


def plugins_of(thing: Any) -> tuple[str, ...]:
    """The plug-ins to load for a function or a class: the one that it stands in.

    None for Lumina's own; all that were loaded, in that order, where it stands in a
    module that a plug-in imported.
    """
    module: str = thing.__module__
    if module.startswith("lumina."):
        return ()
    own = tuple(
        plugin
        for plugin in _LOADED
        if module == (_module_of(Path(plugin)) if plugin.endswith(".py") else plugin)
    )
    return own or tuple(_LOADED)


def _failed(plugin: str, error: Exception) -> LuminaError:
    return LuminaError(
        "E005",
        f"the plug-in {plugin} fails: {type(error).__name__}: {error}",
        "--debug shows where; fix your plug-in",
    )


_FROM_A_FILE = "lumina_plugin_"


def _module_of(path: Path) -> str:
    """The name of the module that a plug-in file becomes."""
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    return f"{_FROM_A_FILE}{path.stem}_{digest}"


def comes_with(cls: type, plugins: Iterable[str]) -> bool:
    """Whether a class is Lumina's or imported, or stands in one of these plug-in files.

    A file that was loaded for an earlier run of this process does not count.
    """
    files = (Path(p).expanduser() for p in plugins if p.endswith(".py"))
    module = cls.__module__
    return not module.startswith(_FROM_A_FILE) or module in map(_module_of, files)


def _run_file(path: Path) -> None:
    name = _module_of(path)
    found = importlib.util.spec_from_file_location(name, path)
    assert found is not None and found.loader is not None
    module = importlib.util.module_from_spec(found)
    sys.modules[name] = module
    try:
        found.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def used_parts(spec: ModelSpec) -> dict[Part, int]:
    """The registered parts of a model, and in how many layers each is."""
    if spec.parts is None:
        return {}
    return {
        held_part(kind, name, spec.parts.plugins): layers
        for (kind, name), layers in spec.parts.used().items()
    }


def reported(spec: ModelSpec) -> Iterator[tuple[Part, str, float, int]]:
    """What the parts report: (part, key, weight in the loss, layers)."""
    for part, layers in used_parts(spec).items():
        for key, weight in part.reports.items():
            if isinstance(weight, str):
                weight = spec.options_of(part.name)[weight]
            yield part, key, float(weight), layers
