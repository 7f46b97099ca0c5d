"""Data of several tasks -> a token store for each, over one tokenizer."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lumina.config.provenance import Source
from lumina.config.tasks import paths_by_task
from lumina.data.prepare import OnEvent, prepare, shared_tokenizer
from lumina.data.split import Progress
from lumina.data.store import TokenStore
from lumina.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lumina.config import Config

_COUNTS = (
    "documents", "conversations", "skipped", "train_tokens", "eval_tokens",
)  # fmt: skip


@dataclass(frozen=True)
class TaskStores:
    """Tokens of several tasks.

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
    """

    train: TaskStores
    eval: TaskStores | None
    tokenizer: Tokenizer
    stats: dict[str, Any]
    skipped: list[Any] = field(default_factory=list)


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
    paths = paths_by_task(config.data.tasks, "tasks")
    held_out = paths_by_task(config.data.task_eval_data, "task_eval_data")
    configs = {
        name: config.override(
            {
                "train_data": given,
                "eval_data": held_out.get(name, ()),
                "tasks": (),
                "task_eval_data": (),
            },
            Source("python", f"task {name}"),
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
    stats = Counter[str]()
    for one in made.values():
        stats.update({key: one.stats.get(key, 0) for key in _COUNTS})
    evaluation = {name: one.eval for name, one in made.items() if one.eval is not None}
    return PreparedTasks(
        train=TaskStores({name: one.train for name, one in made.items()}),
        eval=TaskStores(evaluation) if evaluation else None,
        # Where a task has conversations, its tokenizer is the same with chat markers.
        tokenizer=max((m.tokenizer for m in made.values()), key=lambda t: t.has_chat),
        stats=dict(stats),
        skipped=[record for one in made.values() for record in one.skipped],
    )
