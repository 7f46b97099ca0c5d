"""Phases of a run as options write them, and what a training mode stands for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lumina.config.leaves import canonical
from lumina.config.phase_text import phase_text
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config.settings import Settings

_CONTEXT = re.compile(r"([0-9]+(?:[.][0-9]+)?)(e?):([0-9]+)")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")

PHASE_OPTIONS = frozenset({
    "training_mode", "base_finetuning_ratio", "interleaving_strategy",
    "min_base_ratio", "max_base_ratio", "adjustment_window",
    "base_perplexity_threshold", "task_accuracy_threshold",
    "preserve_base_knowledge", "preservation_method", "preservation_strength",
    "preservation_temperature",
    "phase_optimizer", "phase_transition", "convergence_window",
    "convergence_threshold",
    "source_weights", "source_temperature", "source_schedule",
    "steps", "epochs", "batch_size", "grad_accum", "global_batch_size",
    "learning_rate", "auto_adjust_lr", "min_lr", "lr_scheduler", "warmup_steps",
    "warmup_ratio", "decay_ratio", "decay_steps", "weight_decay", "max_grad_norm",
    "ema_decay", "freeze", "seq_length", "gradient_checkpointing",
    "eval_every_n_batches", "eval_batches", "early_stopping_patience",
    "save_every_n_batches",
})  # fmt: skip
"""Options that a phase may set. The others hold for the whole run."""

_SEVERAL = ("source_weights", "source_schedule", "freeze")
"""Options of a phase that may have several values."""


@dataclass(frozen=True)
class Phase:
    """One phase of a run.

    Attributes:
        name: unique within the run.
        options: option -> its value as written, or its values.
    """

    name: str
    options: Mapping[str, str | tuple[str, ...]]

    @property
    def text(self) -> str:
        """As the option `phases` writes it."""
        return phase_text({"name": self.name, **self.options})


def parse_phase(text: str) -> Phase:
    """The inverse of `phase_text`.

    Raises:
        LuminaError: E005 for what is no such text, E004 for an option that a phase
            cannot set, E002 for one that is set twice.
    """
    name, colon, rest = text.partition(":")
    try:
        words = shlex.split(rest)
    except ValueError:
        words, colon = [], ""
    if not colon or not _NAME.fullmatch(name.strip()):
        raise LuminaError(
            "E005",
            f"phases cannot be {text!r}",
            "write NAME: OPTION=VALUE ..., with a name of letters, digits, - and _",
        )
    options: dict[str, str | tuple[str, ...]] = {}
    for word in words:
        option, equals, value = word.partition("=")
        if not equals:
            raise LuminaError(
                "E005", f"phases cannot have {word!r}", "write OPTION=VALUE"
            )
        leaf = canonical(option)
        if leaf not in PHASE_OPTIONS:
            raise LuminaError(
                "E004",
                f"the phase {name.strip()} sets {option}, which holds for a whole run",
                f"a phase can set {', '.join(sorted(PHASE_OPTIONS))}",
            )
        if leaf in _SEVERAL:
            before = options.get(leaf, ())
            assert isinstance(before, tuple)
            options[leaf] = (*before, value)
        elif leaf in options:
            raise LuminaError(
                "E002",
                f"the phase {name.strip()} sets {option} twice",
                "keep one of the two",
            )
        else:
            options[leaf] = value
    return Phase(name.strip(), options)


def phases_of(settings: Settings) -> tuple[Phase, ...]:
    """The phases of a run; none where it has only one part.

    Raises:
        LuminaError: as `parse_phase`; E002 for two phases of one name.
    """
    stages = settings.stages
    if stages.phases:
        found = tuple(parse_phase(text) for text in stages.phases)
    elif stages.training_mode == "hybrid":
        found = _hybrid(settings)
    elif stages.context_schedule:
        found = _context(settings)
    else:
        return ()
    names = [phase.name for phase in found]
    if len(set(names)) < len(names):
        raise LuminaError(
            "E002",
            f"two phases have one name: {', '.join(names)}",
            "give each a name of its own",
        )
    return found


def context_points(settings: Settings) -> tuple[tuple[float, int], ...]:
    """(steps or epochs done, positions of a row from there on) of `context_schedule`.

    Raises:
        LuminaError: E005 for an entry that is none, and for points that do not begin at
            0 and rise, or mix steps and epochs.
    """
    entries = settings.stages.context_schedule
    points = []
    for entry in entries:
        found = _CONTEXT.fullmatch(entry.strip())
        if not found or int(found[3]) < 1:
            raise LuminaError(
                "E005",
                f"context_schedule cannot be {entry!r}",
                "write STEP:LENGTH, such as 1000:1024, or EPOCHe:LENGTH",
            )
        points.append((float(found[1]), int(found[3])))
    units = {entry.partition(":")[0].strip().endswith("e") for entry in entries}
    begins = [begin for begin, _ in points]
    if begins and (begins[0] != 0 or begins != sorted(set(begins)) or len(units) > 1):
        raise LuminaError(
            "E005",
            f"context_schedule cannot be {' '.join(entries)}",
            "begin with 0, let the points rise, and give all in steps or all in epochs",
        )
    return tuple(points)


def _context(settings: Settings) -> tuple[Phase, ...]:
    """A phase for each length of a row, up to the end of the run."""
    points = context_points(settings)
    by_epochs = settings.stages.context_schedule[0].partition(":")[0].endswith("e")
    leaf = "epochs" if by_epochs else "steps"
    total = settings.get(leaf)
    if total is None or total <= points[-1][0]:
        raise LuminaError(
            "E002",
            f"context_schedule ends at {points[-1][0]:g} {leaf}, and the run has "
            f"{total}",
            f"name more --{leaf} than the last point of the schedule",
        )
    ends = [begin for begin, _ in points[1:]] + [total]
    found = []
    for number, ((begin, length), end) in enumerate(zip(points, ends, strict=True)):
        span = f"{end - begin:g}"
        options = {leaf: span, "seq_length": str(length), "phase_optimizer": "keep"}
        found.append(Phase(f"context-{number + 1}", options))
    return tuple(found)


def _hybrid(settings: Settings) -> tuple[Phase, ...]:
    """The base text, then the fine-tuning data."""
    stages = settings.stages
    base: dict[str, str | tuple[str, ...]] = {"training_mode": "base_only"}
    second: dict[str, str | tuple[str, ...]] = {"training_mode": "finetuning_only"}
    for options, epochs, rate in (
        (base, stages.base_num_epochs, stages.base_learning_rate),
        (second, stages.ft_num_epochs, stages.ft_learning_rate),
    ):
        if epochs is not None:
            options["epochs"] = str(epochs)
        if rate is not None:
            options["learning_rate"] = str(rate)
    if stages.phase_transition_warmup_steps is not None:
        second["warmup_steps"] = str(stages.phase_transition_warmup_steps)
    return Phase("base", base), Phase("finetuning", second)


OF_HYBRID = (
    "base_num_epochs", "base_learning_rate", "ft_num_epochs", "ft_learning_rate",
    "phase_transition_warmup_steps",
)  # fmt: skip
"""Options of the two phases of hybrid."""


def mode_weights(mode: str, ratio: float) -> tuple[float, float]:
    """The shares of the base text and of the fine-tuning data in a training mode."""
    if mode == "base_only":
        return 1.0, 0.0
    return (0.0, 1.0) if mode == "finetuning_only" else (ratio, 1.0 - ratio)


BASE_RATIO = 0.7
"""The share of base rows where both sources are mixed and no option says it."""

RECOMMENDED: Mapping[str, Mapping[str, float]] = {
    "base_only": {
        "epochs": 1.0,
        "global_batch_size": 32,
        "seq_length": 2048,
        "learning_rate": 3e-4,
        "warmup_ratio": 0.05,
    },
    "finetuning_only": {
        "epochs": 3.0,
        "global_batch_size": 8,
        "seq_length": 4096,
        "learning_rate": 1e-5,
        "warmup_ratio": 0.1,
    },
}
"""What each training mode recommends where an option is not set."""


def names_in_words(phases: Sequence[Phase]) -> str:
    """The phases and what each of them sets."""
    return "; then ".join(phase.text for phase in phases)
