"""Paths in a configuration -> a tokenizer and two token stores, cached by content."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lumina.cache_root import cache_root
from lumina.data.cache import LOOKUPS, build_once
from lumina.data.data_events import NO_EVAL, DataEvents, OnEvent
from lumina.data.documents import Skipped
from lumina.data.example import example_of
from lumina.data.loading import choose_loading, require_memory
from lumina.data.loss_rule import loss_rule
from lumina.data.shards import Shards
from lumina.data.split import Progress
from lumina.data.store import FORMAT_VERSION, TokenStore
from lumina.data.store_building import StoreBuilder, refused_conversation
from lumina.data.store_folder import (
    cache_key,
    chat_parts,
    counts_of,
    left_out,
    load_stores,
    opened_stores,
    sides_of,
    stats_of,
)
from lumina.data.template_choice import (
    begins_and_ends,
    template_in_words,
    with_template,
)
from lumina.data.text_files import TextFiles
from lumina.data.tokenise import ENCODING_RULES, Rows
from lumina.data.tokenizer import Tokenizer
from lumina.data.tokenizer_training import trained_tokenizer
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config


@dataclass(frozen=True)
class Prepared:
    """Data that is ready to train on.

    Attributes:
        train: the tokens to learn from.
        eval: held-out tokens, or None when nothing is held out.
        tokenizer: what made them.
        stats: counts, sizes and how they came about; plain JSON values.
        skipped: bad records left out (the first ones; `stats` counts all).
    """

    train: TokenStore
    eval: TokenStore | None
    tokenizer: Tokenizer
    stats: dict[str, Any]
    skipped: list[Skipped] = field(default_factory=list)


def prepare(
    config: Config,
    *,
    tokenizer: Tokenizer | None = None,
    on_progress: Progress | None = None,
    on_event: OnEvent | None = None,
) -> Prepared:
    """Read, split, tokenise and store the data that a configuration names.

    The result is kept under `LUMINA_CACHE`, named by the content of the files, the
    tokenizer and the options: a second call opens it. Safe to call from several
    processes; one works while the others wait.

    Args:
        config: `data`, `model` and `system` sections are read.
        tokenizer: use this one, whatever the configuration says.
        on_progress: called with (stage, done, total); stages are "scan", "tokenizer"
            and "tokenise", amounts are bytes.
        on_event: is called with events about skipped records, damage and additions to
            the vocabulary.

    Raises:
        LuminaError: E101 to E106 for the data or the tokenizer, E204 for the disk.
    """
    return _Preparation(config, tokenizer, on_progress, on_event).run()


class _Preparation:
    """The steps of `prepare`; what a cache already answers is never computed."""

    def __init__(
        self,
        config: Config,
        tokenizer: Tokenizer | None,
        on_progress: Progress | None,
        on_event: OnEvent | None,
    ) -> None:
        self.config = config
        self.data = config.data
        self.given = tokenizer
        self.told = DataEvents(on_event)
        self.files = TextFiles(config, on_progress)
        self.loading = choose_loading(config)
        if self.loading.way == "streaming":
            raise LuminaError(
                "E002",
                "data of this kind is kept in a token store, and data_loading is "
                f"{self.loading}",
                "use --data-loading sharded, or memory",
            )

    def fit(self, prepared: Prepared, length: int) -> Prepared:
        """The same documents, with conversations that fit into rows of `length`."""
        rows = Rows(length, self.data.long_conversations)
        tokenizer = prepared.tokenizer
        folder, meta, cached = self._stores(tokenizer, rows)
        if cached and self.data.data_errors == "fatal":
            _check_refused(meta)
        train, evaluation = self._opened(folder)
        stats = prepared.stats | sides_of(train, evaluation) | counts_of(meta)
        skipped = [Skipped(**record) for record in meta["skipped"]]
        if stats["skipped"] > prepared.stats["skipped"]:  # a template takes no piece
            self.told.skipped([one for one in skipped if one not in prepared.skipped])
        stats["long_conversations"] = meta["long"] | {"mode": rows.mode, "row": length}
        self.told.long(stats["long_conversations"])
        if not train.loss_tokens:
            raise LuminaError(
                "E105",
                f"no token to learn is left: all {stats['conversations']:,} "
                f"conversations are longer than a row of {length:,} tokens, and "
                f"--long-conversations is {rows.mode}",
                "use --long-conversations split, or a larger --seq-length",
            )
        if evaluation is None and prepared.eval is not None:
            self.told.event("data_no_eval", "warning", None, NO_EVAL)
        return replace(
            prepared, train=train, eval=evaluation, stats=stats, skipped=skipped
        )

    def _stores(
        self, tokenizer: Tokenizer, rows: Rows | None = None
    ) -> tuple[Path, dict[str, Any], bool]:
        """The folder of the stores, what is known of it, and whether it was cached."""
        parts = [
            self.files.sources,
            tokenizer.fingerprint,
            self.data.loss_on,
            FORMAT_VERSION,
            ENCODING_RULES,
            *chat_parts(tokenizer),
            *loss_rule(self.data).key,
        ]
        if rows is not None:
            parts = ["rows", *parts, rows.length, rows.mode]
        builder = StoreBuilder(self.config, self.files)
        key = cache_key(*parts)
        (folder, meta), cached = build_once(
            cache_root() / "stores",
            key,
            lambda folder: builder.build(folder, tokenizer, rows, self._shards(key)),
            load_stores,
            on_damage=self.told.damage,
        )
        return folder, meta, cached

    def _shards(self, key: str) -> Shards | None:
        """The shards of a store, where it is built in shards."""
        size = self.config.loading.shard_size_mb
        if self.loading.way != "sharded" or not size:
            return None
        folder = cache_root() / "store-shards" / key
        return Shards(folder, size * 10**6, self.told.damage)

    def _opened(self, folder: Path) -> tuple[TokenStore, TokenStore | None]:
        """The stores of a folder, in memory where that is how they are loaded."""
        stores = opened_stores(folder)
        if self.loading.way == "memory":
            held = [store for store in stores if store is not None]
            require_memory(held, self.loading)
            for store in held:
                store.read_into_memory()
        return stores

    def run(self) -> Prepared:
        """Everything, from the files to the stores."""
        began, looked_up = time.monotonic(), replace(LOOKUPS)
        tokenizer = self._tokenizer()
        folder, meta, cached = self._stores(tokenizer)
        if cached and meta["skipped_total"] and self.data.data_errors == "fatal":
            # It was made when bad records were allowed: now they are an error.
            self.files.scan_all()
            _check_refused(meta)
        if meta["conversations"]:
            known, before = tokenizer.vocab_size, tokenizer.has_chat
            tokenizer = tokenizer.with_chat(tools=bool(meta.get("tool_conversations")))
            if tokenizer.vocab_size > known:
                self.told.event(
                    "chat_markers",
                    "warning",
                    None,
                    (
                        "the tokenizer has no markers of tools"
                        if before
                        else "the tokenizer has no chat template"
                    )
                    + ": Lumina's own markers were "
                    f"added ({tokenizer.vocab_size - known} tokens), which an "
                    "imported model has never seen",
                    tokens=tokenizer.vocab_size - known,
                )
        skipped = [Skipped(**record) for record in meta["skipped"]]
        train, evaluation = self._opened(folder)
        stats = stats_of(train, evaluation, tokenizer, meta)
        stats["loading"] = str(self.loading)
        stats["ignored_files"] = left_out(
            [*self.data.train_data, *self.data.eval_data], meta
        )
        stats["cached"] = cached
        stats["cache"] = LOOKUPS.since(looked_up)
        stats["seconds"] = time.monotonic() - began
        first = train.document(0) if len(train) else np.zeros(0, np.uint32)
        stats["begins_and_ends"] = begins_and_ends(
            tokenizer,
            first,
            self.data.chat_template,
            documents=meta["documents"],
            conversations=meta["conversations"],
        )
        if forms := meta.get("forms"):
            self.told.forms(forms, example_of(train, tokenizer))
        if meta["conversations"]:
            told, odd = template_in_words(tokenizer, first, self.data.chat_template)
            self.told.event("chat_template", "warning" if odd else "info", None, told)
        self.told.prepared(self.config, stats, skipped, evaluation)
        return Prepared(train, evaluation, tokenizer, stats, skipped)

    def _tokenizer(self) -> Tokenizer:
        if self.given is not None:
            found = self.given
        elif self.data.tokenizer is not None:
            found = Tokenizer.from_path(self.data.tokenizer)
        else:
            found = trained_tokenizer(self.config, [self.files])
        return with_template(found, self.data.chat_template)


def fit_rows(
    prepared: Prepared,
    config: Config,
    length: int,
    *,
    on_progress: Progress | None = None,
    on_event: OnEvent | None = None,
) -> Prepared:
    """The data, with what `long_conversations` says done to what no row can hold.

    Args:
        prepared: of `prepare`, for the same settings.
        config: the settings.
        length: positions of a row.
        on_progress: as for `prepare`.
        on_event: is called with an event about conversations that are longer.

    Raises:
        LuminaError: E105 where nothing to learn is left, E108 where a chat template
            does not let the turns be found; as `prepare`.
    """
    mode = config.data.long_conversations
    longest = prepared.stats["longest_conversation"]
    if longest <= length + 1:
        return prepared
    if mode == "cut":
        DataEvents(on_event).cut(longest, length)
        return prepared
    part = _Preparation(config, prepared.tokenizer, on_progress, on_event)
    return part.fit(prepared, length)


def _check_refused(meta: dict[str, Any]) -> None:
    """Refuse a store that was made when refused conversations were left out."""
    for record in meta["skipped"]:
        if record["code"] == "E108":
            raise refused_conversation(Skipped(**record))
