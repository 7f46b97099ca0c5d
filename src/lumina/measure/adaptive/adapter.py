"""What a trainer has to offer to take part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lumina.measure.adaptive.scenario import Recipe


@dataclass(frozen=True)
class Task:
    """One run that an adapter makes.

    Attributes:
        folder: of the run; holds train.txt, held-out.txt and tokenizer.json, and
            everything that the trainer writes.
        recipe: the settings.
        faults: what happens to it; each has a "kind" and a "step", the number of
            steps that are done before it happens.
    """

    folder: Path
    recipe: Recipe
    faults: tuple[Mapping[str, Any], ...] = ()

    @property
    def log(self) -> Path:
        """Where `Log` writes."""
        return self.folder / "log.jsonl"


@dataclass
class Watched:
    """What the adapter's own records tell of a run.

    Attributes:
        decisions: every alarm and decision: "step", "kind" (of anomaly), "action"
            ("" for an alarm; "nothing" for a decision to do nothing), "reason".
        notes: anything else that helps to understand it.
        lesson: what a later run may learn of it, as text; "": nothing.
    """

    decisions: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    lesson: str = ""


class Adapter(Protocol):
    """A trainer under test."""

    name: str

    def refuses(self, recipe: Recipe, faults: tuple[Mapping[str, Any], ...]) -> str:
        """Why it cannot make such a run; empty where it can."""

    def supervised(self, task: Task) -> bool:
        """Whether the trainer restarts itself, so that nothing else may."""

    def train(self, task: Task, resume: bool) -> None:
        """Train to the end in this process, which may be killed meanwhile.

        It counts and evaluates through a `Log`, and injects the faults.
        """

    def teach(self, memory: Path, lessons: Sequence[str]) -> None:
        """Make a memory for `Recipe.experience` of the lessons of earlier runs."""

    def watched(self, task: Task) -> Watched:
        """Read what the trainer has recorded of a finished run."""
