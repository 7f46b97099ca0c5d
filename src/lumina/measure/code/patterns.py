"""Careless patterns in Python code, found in its syntax tree without running it.

Each is one function in `PATTERNS` with a name, its number in the Common Weakness
Enumeration (CWE) and a sentence. They look at one place at a time and follow no values
through a program: what is found is a place to look at, and code in which nothing is
found is not therefore safe.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

Names = Mapping[str, str]
"""Local name -> full name of what was imported under it."""

Look = Callable[[ast.AST, Names], bool]
"""Whether a node has the pattern."""


@dataclass(frozen=True)
class Pattern:
    """One careless pattern.

    Attributes:
        name: how results call it.
        cwe: its number in the Common Weakness Enumeration.
        text: what is wrong, as a sentence.
        look: whether a node has it.
    """

    name: str
    cwe: int
    text: str
    look: Look


@dataclass(frozen=True)
class Found:
    """A place with a careless pattern.

    Attributes:
        name: of the pattern.
        cwe: its number in the Common Weakness Enumeration.
        line: in the code, from 1.
        text: what is wrong.
    """

    name: str
    cwe: int
    line: int
    text: str


PATTERNS: dict[str, Pattern] = {}
"""Name -> pattern; filled by `register_pattern`."""


def register_pattern(name: str, cwe: int, text: str) -> Callable[[Look], Look]:
    """Enter a pattern in the table: a decorator of its function.

    Args:
        name: how results call it; one of the same name is replaced.
        cwe: its number in the Common Weakness Enumeration.
        text: what is wrong, as a sentence.
    """

    def entered(look: Look) -> Look:
        PATTERNS[name] = Pattern(name, cwe, text, look)
        return look

    return entered


def insecure_patterns(tree: ast.AST) -> list[Found]:
    """The careless places of a program, by line.

    Args:
        tree: of the program, as `ast.parse` gives it.
    """
    names = _imported(tree)
    found = [
        Found(one.name, one.cwe, getattr(node, "lineno", 1), one.text)
        for node in ast.walk(tree)
        for one in PATTERNS.values()
        if one.look(node, names)
    ]
    return sorted(found, key=lambda one: (one.line, one.name))


def _imported(tree: ast.AST) -> dict[str, str]:
    """What is imported under which name, anywhere in a program."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for one in node.names:
                whole = one.name if one.asname else one.name.split(".")[0]
                names[one.asname or whole] = whole
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for one in node.names:
                names[one.asname or one.name] = f"{node.module}.{one.name}"
    return names


def _called(node: ast.AST, names: Names) -> str:
    """The full name of what a node calls; empty where it is no call of a name."""
    return _full(node.func, names) if isinstance(node, ast.Call) else ""


def _full(node: ast.AST, names: Names) -> str:
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    parts.append(names.get(node.id, node.id))
    return ".".join(reversed(parts))


def _keywords(node: ast.AST) -> dict[str, ast.expr]:
    given = node.keywords if isinstance(node, ast.Call) else []
    return {one.arg: one.value for one in given if one.arg is not None}


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _texts(node: ast.AST) -> Iterator[str]:
    """The pieces of text that an expression is made of."""
    for one in ast.walk(node):
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one.value


def _built(node: ast.expr) -> bool:
    """Whether a text is put together from values: +, %, f"{}" or format."""
    if isinstance(node, ast.JoinedStr):
        return any(isinstance(one, ast.FormattedValue) for one in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Mod):
        sides = (node.left, node.right)
        return not all(isinstance(one, ast.Constant) for one in sides)
    called = node.func if isinstance(node, ast.Call) else None
    return isinstance(called, ast.Attribute) and called.attr == "format"


@register_pattern("eval", 95, "text is run as code by eval or exec")
def _eval(node: ast.AST, names: Names) -> bool:
    if _called(node, names) not in {"eval", "exec", "builtins.eval", "builtins.exec"}:
        return False
    assert isinstance(node, ast.Call)
    return bool(node.args) and not isinstance(node.args[0], ast.Constant)


@register_pattern("shell", 78, "a command is given to a shell")
def _shell(node: ast.AST, names: Names) -> bool:
    name = _called(node, names)
    if name in {
        "os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput",
        "asyncio.create_subprocess_shell",
    }:  # fmt: skip
        return True
    shell = _keywords(node).get("shell")
    return (
        name.startswith("subprocess.")
        and shell is not None
        and not (isinstance(shell, ast.Constant) and not shell.value)
    )


@register_pattern("unpickle", 502, "reading this form of data can run code in it")
def _unpickle(node: ast.AST, names: Names) -> bool:
    name = _called(node, names)
    if name in {"torch.load"}:
        return _is(_keywords(node).get("weights_only"), False)
    if name in {"numpy.load"}:
        return _is(_keywords(node).get("allow_pickle"), True)
    return name in {
        "pickle.load", "pickle.loads", "pickle.Unpickler", "cPickle.load",
        "cPickle.loads", "_pickle.load", "_pickle.loads", "dill.load", "dill.loads",
        "cloudpickle.load", "cloudpickle.loads", "joblib.load", "shelve.open",
        "marshal.load", "marshal.loads", "jsonpickle.decode", "pandas.read_pickle",
    }  # fmt: skip


@register_pattern("yaml_load", 502, "yaml.load without a safe loader makes any object")
def _yaml(node: ast.AST, names: Names) -> bool:
    name = _called(node, names)
    if name in {"yaml.unsafe_load", "yaml.unsafe_load_all"}:
        return True
    if name not in {"yaml.load", "yaml.load_all"}:
        return False
    assert isinstance(node, ast.Call)
    loader = _keywords(node).get("Loader", node.args[1] if node.args[1:] else None)
    last = "" if loader is None else _full(loader, names).rsplit(".", 1)[-1]
    return last not in {"SafeLoader", "CSafeLoader", "BaseLoader", "CBaseLoader"}


_SECRET = re.compile(
    r"(?i)(^|_)(password|passwd|pwd|secret|token|api_?key|access_?key|private_?key)$"
)
_KEY = re.compile(
    r"AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|sk-[A-Za-z0-9_-]{32,}"
    r"|xox[abprs]-[A-Za-z0-9-]{10,}|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_PLACEHOLDER = re.compile(
    r"(?i)^$|^[<{$].*|.*\b(example|placeholder|changeme|your)\b.*|.*your[_-].*|[x*.]+"
)


@register_pattern("secret", 798, "a password or key is written in the code")
def _secret(node: ast.AST, names: Names) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and bool(_KEY.search(node.value))
    pairs: list[tuple[str, ast.expr | None]] = []
    if isinstance(node, ast.Assign):
        pairs = [(_last(one), node.value) for one in node.targets]
    elif isinstance(node, ast.AnnAssign):
        pairs = [(_last(node.target), node.value)]
    elif isinstance(node, ast.Dict):
        pairs = [
            (key.value, value)
            for key, value in zip(node.keys, node.values, strict=True)
            if isinstance(key, ast.Constant) and isinstance(key.value, str)
        ]
    elif isinstance(node, ast.keyword):
        pairs = [(node.arg or "", node.value)]
    return any(
        bool(_SECRET.search(name))
        and isinstance(value, ast.Constant)
        and isinstance(value.value, str)
        and not _PLACEHOLDER.match(value.value)
        and not _KEY.search(value.value)  # told of by itself
        for name, value in pairs
    )


def _last(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""


@register_pattern("weak_hash", 327, "MD5 and SHA-1 no longer resist forgery")
def _weak_hash(node: ast.AST, names: Names) -> bool:
    name = _called(node, names)
    if _is(_keywords(node).get("usedforsecurity"), False):
        return False
    if name in {"hashlib.md5", "hashlib.sha1"}:
        return True
    first = node.args[:1] if isinstance(node, ast.Call) else []
    return name == "hashlib.new" and any(
        text.lower() in {"md5", "sha1", "sha-1"}
        for one in first
        for text in _texts(one)
    )


_STATEMENT = re.compile(
    r"(?is)^\s*(select\b.+\bfrom\b|insert\s+into\b|update\b.+\bset\b|delete\s+from\b"
    r"|drop\s+table\b|alter\s+table\b)"
)


@register_pattern("sql", 89, "an SQL statement is put together from values")
def _sql(node: ast.AST, names: Names) -> bool:
    """A built text that begins as a statement does; not each part of it again."""
    if not isinstance(node, ast.expr) or not _built(node):
        return False
    if isinstance(node, ast.BinOp) and _built(node.left):
        return False
    return bool(_STATEMENT.search(" ".join(_texts(node))))


@register_pattern("temporary_name", 377, "another may make a file of this name first")
def _temporary(node: ast.AST, names: Names) -> bool:
    return _called(node, names) in {"tempfile.mktemp", "os.tempnam", "os.tmpnam"}


@register_pattern(
    "unchecked_tls", 295, "the certificate of the other side is not checked"
)
def _tls(node: ast.AST, names: Names) -> bool:
    name = _called(node, names)
    if name.startswith(("requests.", "httpx.")):
        return _is(_keywords(node).get("verify"), False)
    return name in {"ssl._create_unverified_context"}


@register_pattern("debug_server", 489, "a web server shows its debugger to visitors")
def _debug(node: ast.AST, names: Names) -> bool:
    called = node.func if isinstance(node, ast.Call) else None
    return (
        isinstance(called, ast.Attribute)
        and called.attr == "run"
        and _is(_keywords(node).get("debug"), True)
    )


@register_pattern("open_to_all", 732, "everybody may write the file")
def _mode(node: ast.AST, names: Names) -> bool:
    if _called(node, names) != "os.chmod":
        return False
    assert isinstance(node, ast.Call)
    mode = node.args[1] if node.args[1:] else _keywords(node).get("mode")
    return (
        isinstance(mode, ast.Constant)
        and isinstance(mode.value, int)
        and bool(mode.value & 0o002)
    )


@register_pattern("weak_random", 338, "random is no source of secrets")
def _random(node: ast.AST, names: Names) -> bool:
    """A name of a secret that is given a value made by `random`."""
    if not isinstance(node, ast.Assign):
        return False
    named = any(_SECRET.search(_last(one)) for one in node.targets)
    return named and any(
        _called(one, names).startswith("random.")
        and not _called(one, names).startswith("random.SystemRandom")
        for one in ast.walk(node.value)
    )
