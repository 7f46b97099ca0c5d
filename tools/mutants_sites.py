"""Finds the places of the source where one small mistake can be made, and draws some.

What people read (docstrings, messages, `__repr__`) and what only Python's readers see
(annotations) is left alone. So is what runs as a module is imported: it is in every
test, and in none.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

COMPARISONS: dict[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: ("not in", "in"),
}
ARITHMETIC: dict[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "/"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "*"),
    ast.Mod: ("%", "//"),
}
EXTREMES = {
    "min": "max",
    "max": "min",
    "amin": "amax",
    "amax": "amin",
    "minimum": "maximum",
    "maximum": "minimum",
    "clamp_min": "clamp_max",
    "clamp_max": "clamp_min",
}
UNREAD = {"print", "warn", "debug", "info", "warning", "error", "exception"}
"""Calls that tell people something."""

NOT_NUMBERS = (ast.JoinedStr, ast.List, ast.Tuple, ast.Set, ast.Dict, ast.ListComp)
PATH_LIKE = re.compile(r"path|folder|directory|root|parent|dir\b", re.IGNORECASE)
RETURNS = {
    "bool": "not ({})",
    "int": "({}) + 1",
    "float": "({}) + 1.0",
    "Tensor": "({}) * 2",
    "torch.Tensor": "({}) * 2",
}


@dataclass(frozen=True)
class Site:
    """One mistake that could be made.

    Attributes:
        file: below the root.
        function: that the mistake is in, with its classes.
        operator: kind of mistake.
        lines: first and last line that it is made in.
        what: it is, for people.
        old: text that occurs in the file exactly once.
        new: takes its place.
        before: sites that only differ from this one in their place in the old text.
    """

    file: str
    function: str
    operator: str
    lines: tuple[int, int]
    what: str
    old: str
    new: str
    before: int = 0

    def rank(self, seed: int) -> str:
        """Its place in the order of a seed; the same wherever it stands in the file."""
        named = f"{seed}\n{self.file}\n{self.function}\n{self.what}\n{self.old}"
        if self.before:
            named += f"\n{self.before}"
        return hashlib.sha256(named.encode()).hexdigest()

    @property
    def id(self) -> str:
        """Name on the command line: stays while the text around it does."""
        return f"{Path(self.file).stem}-{self.rank(0)[:6]}"


class Text:
    """A source file whose nodes can be replaced."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.raw = text.encode()
        self.starts = [0]
        for line in self.raw.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))

    def begin(self, node: ast.expr | ast.stmt) -> int:
        """Offset of the first byte of a node."""
        return self.starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt) -> int:
        """Offset behind the last byte of a node."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.expr | ast.stmt) -> str:
        """Text of a node."""
        return self.raw[self.begin(node) : self.end(node)].decode()

    def line(self, offset: int) -> int:
        """Line, from one, of a byte."""
        return self.raw.count(b"\n", 0, offset) + 1

    def exchange(self, begin: int, end: int, new: str) -> tuple[str, str] | None:
        """Whole lines around a change that occur once, before and after it."""
        first, last = self.line(begin) - 1, self.line(max(begin, end - 1)) - 1
        while True:
            low, high = self.starts[first], self.starts[last + 1]
            old = self.raw[low:high].decode()
            if self.text.count(old) == 1:
                break
            if first == 0:
                return None
            first -= 1
        changed = self.raw[low:begin] + new.encode() + self.raw[end:high]
        pair = old, changed.decode()
        shorter = pair[0].strip(), pair[1].strip()
        if "\n" not in shorter[0] and self.text.count(shorter[0]) == 1:
            return shorter
        return pair


class Finder(ast.NodeVisitor):
    """Collects the sites of a file."""

    def __init__(self, file: str, text: str) -> None:
        self.file, self.source = file, Text(text)
        self.names: list[str] = []
        self.inside = 0
        self.returns = ""
        self.sites: list[Site] = []

    def add(self, operator: str, begin: int, end: int, new: str, what: str) -> None:
        """Note a change of some bytes."""
        if (pair := self.source.exchange(begin, end, new)) is None:
            return
        lines = self.source.line(begin), self.source.line(max(begin, end - 1))
        place = f"{self.file.removeprefix('src/lumina/')}, {'.'.join(self.names)}"
        what = f"{place}: {what}"
        like = (".".join(self.names), what, pair[0])
        site = Site(
            self.file,
            ".".join(self.names),
            operator,
            lines,
            what,
            *pair,
        )
        before = sum((s.function, s.what, s.old) == like for s in self.sites)
        self.sites.append(replace(site, before=before))

    def between(
        self,
        operator: str,
        left: ast.expr,
        right: ast.expr,
        words: tuple[str, str],
    ) -> None:
        """Note a change of the operator that stands between two expressions."""
        begin, end = self.source.end(left), self.source.begin(right)
        gap = self.source.raw[begin:end].decode()
        wanted = r"\s+".join(re.escape(word) for word in words[0].split())
        edge = r"\b" if words[0][0].isalpha() else ""
        found = re.search(f"{edge}{wanted}{edge}", gap)
        if found is None or "#" in gap:
            return
        start = begin + len(gap[: found.start()].encode())
        length = len(found.group().encode())
        self.add(operator, start, start + length, words[1], f"{words[0]} → {words[1]}")

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """Names the functions in it."""
        self.names.append(node.name)
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                self.visit(child)
        self.names.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        """Only its body, without the docstring; nothing of what prints an object."""
        if node.name in ("__repr__", "__str__"):
            return
        outer = self.returns
        self.returns = ast.unparse(node.returns) if node.returns else ""
        self.names.append(node.name)
        self.inside += 1
        for child in node.body:
            self.visit(child)
        self.inside -= 1
        self.names.pop()
        self.returns = outer

    def visit_Raise(self, node: ast.Raise) -> None:
        """Messages of errors."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """Not behaviour."""

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Python 3.11 does not say where the expressions in it stand."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        """Its value alone."""
        if node.value is not None:
            self.visit(node.value)

    def visit_Expr(self, node: ast.Expr) -> None:
        """A call for its effect may be missing."""
        if not self.inside or not isinstance(node.value, ast.Call):
            return
        if name_of(node.value.func) in UNREAD:
            return
        self.drop(node)
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """What is stored in something else may not be."""
        if self.inside and isinstance(node.targets[0], ast.Attribute | ast.Subscript):
            self.drop(node)
        self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """May be missing, or do the opposite."""
        if self.inside:
            self.drop(node)
            if not isinstance(node.value, NOT_NUMBERS) and (
                words := ARITHMETIC.get(type(node.op))
            ):
                self.between("arithmetic", node.target, node.value, words)
        self.generic_visit(node)

    def drop(self, node: ast.stmt) -> None:
        """Note that a statement could be missing."""
        told = " ".join(self.source.of(node).split())
        told = told if len(told) <= 60 else told[:57] + "..."
        begin, end = self.source.begin(node), self.source.end(node)
        self.add("dropped", begin, end, "pass", f"without {told}")

    def visit_Return(self, node: ast.Return) -> None:
        """Another value of the same type."""
        if self.inside and node.value is not None and self.returns in RETURNS:
            new = RETURNS[self.returns].format(self.source.of(node.value))
            begin, end = self.source.begin(node.value), self.source.end(node.value)
            what = f"returns {RETURNS[self.returns].format('…')}"
            self.add("return", begin, end, new, what)
        self.generic_visit(node)

    def visit_Compare(self, node: ast.Compare) -> None:
        """Each of its operators."""
        if self.inside:
            sides = [node.left, *node.comparators]
            for left, right, op in zip(sides, sides[1:], node.ops, strict=False):
                self.between("comparison", left, right, COMPARISONS[type(op)])
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        """Of numbers, as far as one can see."""
        words = ARITHMETIC.get(type(node.op))
        if self.inside and words and self.of_numbers(node):
            self.between("arithmetic", node.left, node.right, words)
        self.generic_visit(node)

    def of_numbers(self, node: ast.BinOp) -> bool:
        """Whether nothing speaks against operands that are numbers."""
        for side in (node.left, node.right):
            if isinstance(side, NOT_NUMBERS):
                return False
            if isinstance(side, ast.Constant) and isinstance(side.value, str | bytes):
                return False
            if isinstance(node.op, ast.Div) and PATH_LIKE.search(ast.unparse(side)):
                return False
        return True

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        """The first of its operators."""
        if self.inside:
            words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
            self.between("logic", node.values[0], node.values[1], words)
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        """What is denied, affirmed."""
        if self.inside and isinstance(node.op, ast.Not):
            begin, end = self.source.begin(node), self.source.end(node)
            # In parentheses: what stood behind "not" may bind less than its place does.
            new = f"({self.source.of(node.operand)})"
            self.add("logic", begin, end, new, "without not")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        """The smaller for the larger."""
        name = name_of(node.func)
        if self.inside and name in EXTREMES:
            end = self.source.end(node.func)
            begin = end - len(name)
            self.add(
                "extreme", begin, end, EXTREMES[name], f"{name} → {EXTREMES[name]}"
            )
        self.generic_visit(node)

    def visit_keyword(self, node: ast.keyword) -> None:
        """All but the strictness of zip, which only a mistake could feel."""
        if node.arg != "strict":
            self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        """A neighbour of a number, the opposite of a truth value."""
        if not self.inside or isinstance(node.value, str | bytes | complex):
            return
        if isinstance(node.value, bool):
            operator, new = "truth", str(not node.value)
        elif isinstance(node.value, int):
            operator, new = "constant", str(node.value + 1)
        elif isinstance(node.value, float):
            operator, new = "constant", repr(2 * node.value or 1.0)
        else:
            return
        begin, end = self.source.begin(node), self.source.end(node)
        what = f"{self.source.of(node)} → {new}"
        self.add(operator, begin, end, new, what)


def name_of(function: ast.expr) -> str:
    """The last part of the name of what is called."""
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def sites(root: Path, file: str) -> list[Site]:
    """The sites of a file."""
    text = (root / file).read_text()
    finder = Finder(file, text)
    finder.visit(ast.parse(text))
    return finder.sites


def pick(found: list[Site], seed: int, count: int, kept: list[Site]) -> list[Site]:
    """Draw from sites: the operators in turn, and of each the file drawn from least.

    Args:
        found: that may be drawn.
        seed: of their order.
        count: wanted in all.
        kept: drawn before; they come first.
    """
    by_operator: dict[str, list[Site]] = defaultdict(list)
    for site in sorted(found, key=lambda site: site.rank(seed)):
        by_operator[site.operator].append(site)
    drawn = kept[:count]
    taken = Counter(site.file for site in drawn)
    lines = {(site.file, site.lines[0]) for site in drawn}
    while len(drawn) < count and any(by_operator.values()):
        for operator in sorted(by_operator):
            waiting = by_operator[operator]
            # One mistake a line is enough.
            waiting[:] = [s for s in waiting if (s.file, s.lines[0]) not in lines]
            if waiting and len(drawn) < count:
                site = min(waiting, key=lambda site: taken[site.file])
                waiting.remove(site)
                drawn.append(site)
                taken[site.file] += 1
                lines.add((site.file, site.lines[0]))
    return drawn
