"""Data of several tasks or sources -> a token store for each, over one tokenizer."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lumina.config.provenance import Source
from lumina.config.task_paths import paths_by_task
from lumina.data.data_events import OnEvent
from lumina.data.long_conversations import joined_counts
from lumina.data.prepare import (
    Prepared,
    fit_rows,
    prepare,
)
from lumina.data.split import Progress
from lumina.data.store import TokenStore
from lumina.data.tokenizer import Tokenizer
from lumina.data.tokenizer_training import shared_tokenizer

if TYPE_CHECKING:
    from lumina.config import Config

NAMES_OF_SETS = (
    "tasks", "task_eval_data", "sources", "source_eval_data", "source_weights",
    "source_schedule", "base_training_paths", "base_eval_paths", "finetuning_paths",
    "finetuning_eval_paths", "phases",
)  # fmt: skip
"""Options that name several sets of data; none of them holds for a single one."""

_COUNTS = (
    "documents", "conversations", "skipped", "unknown_tokens",
    "train_documents", "train_tokens", "train_loss_tokens",
    "eval_documents", "eval_tokens", "eval_loss_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class TaskStores:
    """Tokens of several tasks, or of several sources of one mixture.

    Attributes:
        stores: by the task's name, in the order of the tasks. Held-out data may lack
            some of them.
    """

    stores: dict[str, TokenStore]

    @property
    def fingerprint(self) -> str:
        """Names the content, tasks and their order included."""
        parts = [f"{name}={one.fingerprint}" for name, one in self.stores.items()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass(frozen=True)
class PreparedTasks:
    """Data of several tasks, ready to train on; compare `lumina.data.prepare.Prepared`.

    Attributes:
        train: what is learned from.
        eval: held-out tokens, or None where no task has any.
        tokenizer: what made them.
        stats: counts over all tasks; plain JSON values.
        skipped: bad records left out.
        parts: the settings and the data of each task.
    """

    train: TaskStores
    eval: TaskStores | None
    tokenizer: Tokenizer
    stats: dict[str, Any]
    skipped: list[Any] = field(default_factory=list)
    parts: dict[str, tuple[Config, Prepared]] = field(default_factory=dict, repr=False)


def prepare_tasks(
    config: Config,
    *,
    tokenizer: Tokenizer | None = None,
    on_progress: Progress | None = None,
    on_event: OnEvent | None = None,
) -> PreparedTasks:
    """Read, split, tokenise and store each task's data; arguments as `prepare`.

    A share of each task's documents is held out, unless `task_eval_data` names files
    for it. Stores are cached one by one, as any other data is.

    Raises:
        LuminaError: as `prepare`.
    """
    return prepare_named(
        config,
        paths_by_task(config.data.tasks, "tasks"),
        paths_by_task(config.data.task_eval_data, "task_eval_data"),
        "task",
        tokenizer=tokenizer,
        on_progress=on_progress,
        on_event=on_event,
    )


def prepare_named(
    config: Config,
    paths: Mapping[str, tuple[str, ...]],
    held_out: Mapping[str, tuple[str, ...]],
    word: str,
    *,
    tokenizer: Tokenizer | None = None,
    on_progress: Progress | None = None,
    on_event: OnEvent | None = None,
) -> PreparedTasks:
    """Sets of data with names, each prepared into stores of its own.

    Args:
        config: the settings of all of them.
        paths: files of each set, by its name.
        held_out: files that are held out, of those sets that have some.
        word: what such a set is called, "task" or "source".
        tokenizer: as for `prepare`, and so are the other arguments.
        on_progress: as for `prepare`.
        on_event: as for `prepare`.

    Raises:
        LuminaError: as `prepare`.
    """
    configs = {
        name: config.override(
            {
                "train_data": given,
                "eval_data": held_out.get(name, ()),
                **dict.fromkeys(NAMES_OF_SETS, ()),
                **dict.fromkeys(("training_mode", "interleaving_strategy")),
                "preserve_base_knowledge": False,
            },
            Source("python", f"{word} {name}"),
        )
        for name, given in paths.items()
    }
    if tokenizer is None and config.data.tokenizer is not None:
        tokenizer = Tokenizer.from_path(config.data.tokenizer)
    if tokenizer is None:
        tokenizer = shared_tokenizer(config, list(configs.values()), on_progress)
    made = {
        name: prepare(
            one, tokenizer=tokenizer, on_progress=on_progress, on_event=on_event
        )
        for name, one in configs.items()
    }
    return _joined({name: (configs[name], one) for name, one in made.items()})


def fit_task_rows(
    prepared: PreparedTasks,
    length: int,
    *,
    on_progress: Progress | None = None,
    on_event: OnEvent | None = None,
) -> PreparedTasks:
    """`fit_rows` for each task."""
    return _joined(
        {
            name: (
                config,
                fit_rows(
                    one, config, length, on_progress=on_progress, on_event=on_event
                ),
            )
            for name, (config, one) in prepared.parts.items()
        }
    )


def _joined(parts: dict[str, tuple[Config, Prepared]]) -> PreparedTasks:
    """The data of all tasks as one."""
    made = {name: one for name, (_, one) in parts.items()}
    stats = Counter[str]()
    for one in made.values():
        stats.update({key: one.stats.get(key, 0) for key in _COUNTS})
    codes = sum((Counter(m.stats["skipped_codes"]) for m in made.values()), Counter())
    long = [m.stats["long_conversations"] for m in made.values()]
    evaluation = {name: one.eval for name, one in made.items() if one.eval is not None}
    return PreparedTasks(
        train=TaskStores({name: one.train for name, one in made.items()}),
        eval=TaskStores(evaluation) if evaluation else None,
        # Where a task has conversations, its tokenizer is the same with chat markers.
        # Where one has tools, their markers stand behind those.
        tokenizer=max(
            (m.tokenizer for m in made.values()),
            key=lambda one: (one.has_chat, one.vocab_size),
        ),
        stats={
            **stats,
            "skipped_codes": dict(codes),
            "long_conversations": joined_counts(long),
        },
        skipped=[record for one in made.values() for record in one.skipped],
        parts=parts,
    )
