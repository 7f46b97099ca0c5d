"""What a check of data is, what it finds, and the table of all checks."""

from __future__ import annotations

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lumina.data.readers.reader import Document
from lumina.data.skipping import Skipped
from lumina.data.tokenizer import Tokenizer

EXAMPLES = 5
"""Examples that a check keeps."""

EXCERPT = 120
"""Characters of an example."""

Verdict = Literal["passed", "failed", "found", "information", "not assessed"]
"""`failed` is an error in the data; `found` is something to know of."""


@dataclass(frozen=True)
class Options:
    """What checks are given.

    Attributes:
        tokenizer: counts tokens; None: lengths in tokens are not assessed.
        eval_data: files that the data must not overlap with.
        ngram: words in a row that make an overlap.
        similarity: share of common phrases from which two documents are near
            duplicates.
        near_documents: no more documents are compared with each other.
        word_lists: name of a list → its words or phrases, in lower case.
        scripts: the scripts that the text is to be in; empty: any.
        most_tokens: a document of more is too long.
    """

    tokenizer: Tokenizer | None = None
    eval_data: tuple[str, ...] = ()
    ngram: int = 13
    similarity: float = 0.8
    near_documents: int = 20_000
    word_lists: Mapping[str, frozenset[str]] = field(default_factory=dict)
    scripts: tuple[str, ...] = ()
    most_tokens: int = 131_072


@dataclass(frozen=True)
class Item:
    """A document, or a piece of a long one.

    Attributes:
        document: as it was read.
        text: of the document; of a conversation its turns, a line each.
        tokens: how many; None without a tokenizer.
    """

    document: Document
    text: str
    tokens: int | None = None


@dataclass(frozen=True)
class Example:
    """Where something was found.

    Attributes:
        source: the file.
        line: in it.
        what: what was found, in words.
    """

    source: str
    line: int | None
    what: str


@dataclass
class Result:
    """What a check found.

    Attributes:
        name: of the check.
        title: of the check, in words.
        verdict: see `Verdict`.
        message: in a sentence.
        count: documents (or records) concerned.
        of: documents seen.
        examples: the first of them.
        numbers: further figures by name.
        bars: (label, count) of a distribution, for a plot; empty: none.
    """

    name: str
    title: str
    verdict: Verdict
    message: str
    count: int = 0
    of: int = 0
    examples: list[Example] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    bars: list[tuple[str, int]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        return asdict(self)


@dataclass(frozen=True)
class Mended:
    """A document after a change.

    Attributes:
        document: what is left; None: it is left out.
        what: the change, in words.
    """

    document: Document | None
    what: str


class Check(ABC):
    """A check; each is a file of `checks` with a class named `CHECK`.

    Attributes:
        name: short.
        title: what is checked, in words.
        answers: keys of `validate_data_comprehensive` that its verdict answers.
        rank: reports show checks of lower ranks first.
        statistic: `lumina data stats` shows its figures.
        mends_errors: `mend` takes errors away, so that `--fix-errors` uses it.
        count: documents in which something was found; `note` counts them.
        seen: documents that were seen.
    """

    name: str
    title: str
    answers: tuple[str, ...] = ()
    rank: int = 50
    statistic: bool = False
    mends_errors: bool = False

    def __init__(self, options: Options) -> None:
        self.options = options
        self.seen = 0
        self.count = 0
        self.examples: list[Example] = []

    @abstractmethod
    def see(self, item: Item) -> None:
        """Look at a document."""

    def see_bad(self, record: Skipped) -> None:
        """Look at a record that cannot be read. Most checks have no use for it."""
        return

    @abstractmethod
    def result(self) -> Result:
        """What was found in all documents."""

    def mend(self, document: Document) -> Mended | None:
        """A document without what this check finds; None: it has nothing to change."""
        return None

    def note(self, item: Item, what: str) -> None:
        """Count a document in which something was found, and keep the first ones."""
        self.note_at(item.document.source, item.document.line, what)

    def note_at(self, source: str, line: int | None, what: str) -> None:
        """`note` for a place."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(Example(source, line, excerpt(what)))

    def made(self, verdict: Verdict, message: str, **more: Any) -> Result:
        """A result with what was noted."""
        return Result(
            self.name,
            self.title,
            verdict,
            message,
            count=self.count,
            of=self.seen,
            examples=self.examples,
            **more,
        )

    def not_assessed(self, why: str) -> Result:
        """The result of a check that could not look at anything."""
        return Result(self.name, self.title, "not assessed", why)


def excerpt(text: str) -> str:
    """The beginning of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= EXCERPT else line[: EXCERPT - 1] + "…"


def contents(document: Document) -> list[str]:
    """The texts of a document: its own, or those of its turns."""
    if document.text is not None:
        return [document.text]
    return [message["content"] for message in document.messages or ()]


@functools.cache
def checks() -> dict[str, type[Check]]:
    """Every check by name, in the order of reports."""
    package = importlib.import_module(f"{__package__}.checks")
    found: list[type[Check]] = [
        importlib.import_module(f"{package.__name__}.{info.name}").CHECK
        for info in pkgutil.iter_modules(package.__path__)
    ]
    return {check.name: check for check in sorted(found, key=lambda one: one.rank)}


def distribution(
    values: Sequence[int],
) -> tuple[dict[str, float], list[tuple[str, int]]]:
    """Figures of some lengths, and how many fall between powers of two."""
    if not values:
        return {}, []
    ordered = sorted(values)
    last = len(ordered) - 1
    shares = {"median": 0.5, "p90": 0.9, "p99": 0.99}
    numbers: dict[str, float] = {
        "least": ordered[0],
        **{name: ordered[round(last * share)] for name, share in shares.items()},
        "most": ordered[-1],
        "mean": sum(ordered) / len(ordered),
        "sum": sum(ordered),
    }
    counts: dict[int, int] = {}
    for value in ordered:
        counts[value.bit_length()] = counts.get(value.bit_length(), 0) + 1
    bars = [
        (f"{2 ** (bits - 1):,}–{2**bits - 1:,}" if bits else "0", counts.get(bits, 0))
        for bits in range(min(counts), max(counts) + 1)
    ]
    return numbers, bars
