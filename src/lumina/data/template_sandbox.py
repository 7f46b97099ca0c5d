"""Where a chat template runs: it reaches nothing outside, and it comes to an end.

A template is a program of a stranger. What it may call is jinja2's sandbox's matter;
that it ends is seen to here. Everything it does costs something (a turn of a loop, a
character that is written or copied), and a rendering has so much to spend: the same
template with the same conversation is always taken, or always refused.
"""

from __future__ import annotations

import functools
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
from jinja2.exceptions import SecurityError

MAX_OUTPUT = 2**24
"""Characters that a template may add to the words of a conversation."""
MAX_COST = 2**26
"""What a rendering may cost, besides what the length of its conversation adds."""
STEP_COST = 256
"""Of a turn of a loop or a call of a macro; a character that is copied costs 1."""
MAX_SECONDS = 20.0
"""Processor time of a rendering; a last bound, far above what `MAX_COST` takes."""

BEGIN, END = "\ue0f2", "\ue0f3"
"""Around what {% generation %} encloses, where that is asked for."""

_ITEM_COST = 32
_ENDLESS = "it works without end"
_LARGEST_NUMBER = 2**20
_NUMBERED = ("center", "indent", "batch", "slice", "wordwrap", "truncate", "ljust",
             "rjust", "zfill", "expandtabs", "format", "round", "filesizeformat",
             "urlize")  # fmt: skip
_WRITE_ALL = ("tojson", "pprint", "string", "join", "xmlattr", "urlencode", "format",
              "escape", "e", "forceescape", "upper", "lower", "title", "capitalize",
              "replace", "trim", "center", "indent")  # fmt: skip


@dataclass
class _Purse:
    """What a rendering may still spend, and until when."""

    left: int
    until: float
    calls: int = 0


class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """Compiles templates as transformers does, and counts what they cost.

    Several threads may render at once; each counts its own.
    """

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, jinja2.ext.loopcontrols],
            optimized=False,  # nothing is computed before it is counted
        )
        self._thread = threading.local()
        self.filters["tojson"] = _tojson
        self.filters = {
            name: self._counted(name, function)
            for name, function in self.filters.items()
        }
        # A filter is called straight away; see `_counting`.
        self.filters |= {
            "lumina step": self._step,
            "lumina written": self._written,
            "lumina joined": self._joined,
            "lumina copied": self._copied,
        }
        del self.globals["lipsum"]
        self.globals["raise_exception"] = _raise_exception

    def compiled(self, source: str) -> tuple[jinja2.nodes.Template, jinja2.Template]:
        """A template as it was written, and ready to run."""
        as_written = self.parse(source)
        return as_written, self.from_string(_counting(self.parse(source), self))

    def begin(self, turns: int, characters: int) -> None:
        """A rendering of a conversation of such a size begins.

        A template may look at every turn at every turn, and work on all words often.
        """
        more = characters * (256 + turns) + STEP_COST * 4 * turns**2
        self._thread.purse = _Purse(MAX_COST + more, time.thread_time() + MAX_SECONDS)

    def _spend(self, cost: int) -> None:
        """Something is done."""
        purse: _Purse = self._thread.purse
        purse.left -= cost
        purse.calls += 1
        if purse.left < 0 or (
            purse.calls % 256 == 0 and time.thread_time() > purse.until
        ):
            raise SecurityError(_ENDLESS)

    def _step(self, literal: int) -> bool:
        """A turn of a loop, or a macro's, with this many characters written in it."""
        self._spend(STEP_COST + literal)
        return True

    def _written(self, value: Any) -> Any:
        """A value that becomes text."""
        if isinstance(value, str):
            self._spend(len(value))
        else:
            self._weigh(value)
        return value

    def _joined(self, *values: Any) -> str:
        """`a ~ b`."""
        for value in values:
            self._weigh(value)
        return "".join(map(str, values))

    def _copied(self, part: Any) -> Any:
        """A part of a text or list."""
        if hasattr(part, "__len__"):
            self._spend(len(part))
        return part

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Two values and what is between them; jinja2 calls this."""
        if operator == "+" and isinstance(left, str) and isinstance(right, str):
            self._spend(len(left) + len(right))
            return left + right
        lengths = [len(v) for v in (left, right) if isinstance(v, (str, list, tuple))]
        numbers = [v for v in (left, right) if isinstance(v, int)]
        if operator == "+":
            self._spend(sum(lengths))
        elif operator == "*" and lengths and numbers:
            self._check_size(lengths[0] * max(numbers[0], 0))
        elif operator == "*":
            if sum(number.bit_length() for number in numbers) > 4096:
                raise SecurityError("a number grows too large")
        elif operator == "**" and any(abs(number) > 1024 for number in numbers):
            raise SecurityError("a power grows too large")
        elif operator == "%" and isinstance(left, str):
            self._check_format(left)
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, str):
            self._spend(len(result))
        return result

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """A function or a method; jinja2 calls this."""
        # jinja2 wraps str.format.
        owner = getattr(getattr(obj, "__wrapped__", obj), "__self__", None)
        if isinstance(owner, str):
            name = getattr(obj, "__name__", "")
            if name == "translate":
                raise SecurityError("it may not call translate")
            self._spend(len(owner))
            self._check(name, owner, [*args, *kwargs.values()])
        result = super().call(context, obj, *args, **kwargs)
        if isinstance(result, (str, list, tuple, dict)):
            self._spend(len(result))
        return result

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A filter that costs what it reads and gives."""
        skipped = 1 if getattr(function, "jinja_pass_arg", None) else 0

        @functools.wraps(function)  # with what jinja2 notes on it
        def counted(*args: Any, **kwargs: Any) -> Any:
            value, *more = args[skipped:]
            more += kwargs.values()
            if name in _WRITE_ALL:
                for one in (value, *more):
                    self._weigh(one)
            elif hasattr(value, "__len__"):
                self._spend(len(value))
            if name == "sum" and any(isinstance(one, (list, tuple)) for one in more):
                raise SecurityError("it may only sum numbers")
            self._check(name, value, more)
            result = function(*args, **kwargs)
            if isinstance(result, (str, list, tuple, dict)):
                self._spend(len(result))
            return result

        return counted

    def _check(self, name: str, value: Any, more: list[Any]) -> None:
        """Refuse, before it is made, a text or list that would be too large."""
        numbers = [one for one in more if isinstance(one, int)]
        texts = [one for one in more if isinstance(one, str)]
        if name in _NUMBERED and any(abs(one) > _LARGEST_NUMBER for one in numbers):
            raise SecurityError("a number is too large")
        if name == "format" and isinstance(value, str):
            self._check_format(value)
        if not isinstance(value, str):
            if name == "join" and texts and hasattr(value, "__len__"):
                self._check_size(len(value) * max(map(len, texts)))
            return
        if name in ("indent", "expandtabs"):
            wide = max([8, *numbers, *map(len, texts)])
            self._check_size((value.count("\n\t"[name == "expandtabs"]) + 1) * wide)
        if name == "replace" and len(texts) > 1:
            self._check_size(value.count(texts[0]) * len(texts[1]))
        if name == "join" and more and hasattr(more[0], "__len__"):
            self._check_size(len(value) * len(more[0]))

    def _check_size(self, size: int) -> None:
        if size > MAX_OUTPUT:
            raise SecurityError("a text or list grows too long")
        self._spend(size)

    def _check_format(self, text: str) -> None:
        if re.search(r"[0-9]{5}|%[^a-zA-Z]*\*", text):
            raise SecurityError("a number is too large")

    def _weigh(self, value: Any) -> None:
        """Spend what a value costs as text; one within others as often as it is."""
        if isinstance(value, str):
            self._spend(len(value))
        elif isinstance(value, dict):
            for pair in value.items():
                self._weigh(pair)
        elif isinstance(value, (list, tuple)):
            self._spend(_ITEM_COST)
            for one in value:
                self._weigh(one)
        else:
            self._spend(_ITEM_COST)


def _counting(tree: jinja2.nodes.Template, sandbox: Sandbox) -> jinja2.nodes.Template:
    """The template, with a call of the sandbox wherever it goes on or writes."""
    nodes = jinja2.nodes

    def call(name: str, value: Any, *more: Any) -> Any:
        """A filter of the sandbox, by a name that no template can write."""
        node = nodes.Filter(value, f"lumina {name}", list(more), [], None, None)
        return node.set_lineno(value.lineno)

    node: Any
    for node in list(
        tree.find_all((nodes.For, nodes.Macro, nodes.CallBlock, nodes.Block))
    ):
        literal = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        step = call("step", nodes.Const(literal).set_lineno(node.lineno))
        node.body.insert(0, nodes.ExprStmt(step).set_lineno(node.lineno))
        if isinstance(node, nodes.For) and node.test is not None:
            again = call("step", nodes.Const(0).set_lineno(node.lineno))
            node.test = nodes.And(again, node.test).set_lineno(node.lineno)
    for output in list(tree.find_all(nodes.Output)):
        output.nodes = [
            one if isinstance(one, nodes.TemplateData) else call("written", one)
            for one in output.nodes
        ]
    _copies_counted(tree, call)
    tree.set_environment(sandbox)
    return tree


def _copies_counted(node: Any, call: Callable[..., Any]) -> Any:
    """The tree with a call in place of every `a ~ b`, and around every `a[b:c]`."""
    for name, value in node.iter_fields():
        if isinstance(value, list):
            setattr(
                node,
                name,
                [
                    _copies_counted(one, call)
                    if isinstance(one, jinja2.nodes.Node)
                    else one
                    for one in value
                ],
            )
        elif isinstance(value, jinja2.nodes.Node):
            setattr(node, name, _copies_counted(value, call))
    if isinstance(node, jinja2.nodes.Concat):
        return call("joined", *node.nodes)
    if isinstance(node, jinja2.nodes.Getitem) and isinstance(
        node.arg, jinja2.nodes.Slice
    ):
        return call("copied", node)
    return node


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`: encloses what the assistant says."""

    tags = {"generation"}  # noqa: RUF012  (jinja2 declares it so)

    def parse(self, parser: Any) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_write", [])
        return jinja2.nodes.CallBlock(call, [], [], body).set_lineno(line)

    @jinja2.pass_context
    def _write(self, context: Any, caller: Callable[[], str]) -> str:
        written = caller()
        return f"{BEGIN}{written}{END}" if context.get("lumina_marks") else written


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
