"""Paths in a configuration -> a tokenizer and two token stores, cached by content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers

from lumina.data.cache import build_once, cache_root, require_space
from lumina.data.documents import Document, Skipped, read_documents
from lumina.data.files import (
    count_left_out,
    counted,
    file_format,
    find_files,
    most_first,
    tell_left_out,
    tell_repeated,
)
from lumina.data.known_hashes import known_hash
from lumina.data.long_conversations import Long, long_in_words
from lumina.data.split import (
    Progress,
    Scan,
    Split,
    choose_split,
    document_bytes,
    scan,
    split_documents,
)
from lumina.data.store import FORMAT_VERSION, StoreWriter, TokenStore
from lumina.data.tokenise import ENCODING_RULES, Rows, encode_documents
from lumina.data.tokenizer import Tokenizer
from lumina.data.vocabulary import check_room
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config

SAMPLE_BYTES = 32 * 2**20
"""The most text a tokenizer is trained on."""

# Vocabulary of a tokenizer trained on up to so many bytes of data.
_VOCABULARIES = ((8 * 2**20, 2048), (64 * 2**20, 8192), (2**30, 32768), (None, 50304))

# Raised when the same files are read as other documents than before: what an earlier
# reading left in the cache is not used then.
_READING = 7

NO_EVAL = "nothing is held out"

_TOLD = 20  # skipped records that get an event of their own

OnEvent = Callable[..., None]
"""Called as on_event(kind=, severity=, code=, message=, **data)."""


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
        on_event: told of skipped records, damage, additions to the vocabulary.

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
        self.on_progress = on_progress
        self.on_event = on_event
        self.files = find_files(self.data.train_data)
        self.eval_files = find_files(self.data.eval_data) if self.data.eval_data else []
        workers = config.system.num_workers
        self.threads = os.cpu_count() or 1 if workers is None else workers

    def fit(self, prepared: Prepared, length: int) -> Prepared:
        """The same documents, with conversations that fit into rows of `length`."""
        rows = Rows(length, self.data.long_conversations)
        tokenizer = prepared.tokenizer
        key = _key(
            "rows",
            self.sources,
            tokenizer.fingerprint,
            self.data.loss_on,
            FORMAT_VERSION,
            ENCODING_RULES,
            *_chat_parts(tokenizer),
            rows.length,
            rows.mode,
        )
        (folder, meta), cached = build_once(
            cache_root() / "stores",
            key,
            lambda folder: self._build(folder, tokenizer, rows),
            _load,
            on_damage=self._tell_damage,
        )
        if cached and self.data.data_errors == "fatal":
            _check_refused(meta)
        train, evaluation = _opened(folder)
        stats = prepared.stats | _sides(train, evaluation) | _counts(meta)
        skipped = [Skipped(**record) for record in meta["skipped"]]
        if stats["skipped"] > prepared.stats["skipped"]:  # a template takes no piece
            self._tell_skipped([one for one in skipped if one not in prepared.skipped])
        stats["long_conversations"] = meta["long"] | {"mode": rows.mode, "row": length}
        self._tell_long(stats["long_conversations"])
        if not train.loss_tokens:
            raise LuminaError(
                "E105",
                f"no token to learn is left: all {stats['conversations']:,} "
                f"conversations are longer than a row of {length:,} tokens, and "
                f"--long-conversations is {rows.mode}",
                "use --long-conversations split, or a larger --seq-length",
            )
        if evaluation is None and prepared.eval is not None:
            self._event("data_no_eval", "warning", None, NO_EVAL)
        return replace(
            prepared, train=train, eval=evaluation, stats=stats, skipped=skipped
        )

    def _tell_damage(self, error: LuminaError) -> None:
        self._event("data_cache_damaged", "warning", error.code, error.message)

    def _tell_long(self, long: dict[str, Any]) -> None:
        """What became of conversations that are longer than a row."""
        whole = not (long["questions_shortened"] or long["without_system"])
        self._event(
            "data_long_conversations",
            "info" if long["mode"] == "split" and whole else "warning",
            None,
            long_in_words(long),
            **long,
        )

    def run(self) -> Prepared:
        began = time.monotonic()
        tokenizer = self._tokenizer()
        key = _key(
            self.sources,
            tokenizer.fingerprint,
            self.data.loss_on,
            FORMAT_VERSION,
            ENCODING_RULES,
            *_chat_parts(tokenizer),
        )
        (folder, meta), cached = build_once(
            cache_root() / "stores",
            key,
            lambda folder: self._build(folder, tokenizer),
            _load,
            on_damage=self._tell_damage,
        )
        if cached and meta["skipped_total"] and self.data.data_errors == "fatal":
            # It was made when bad records were allowed: now they are an error.
            self._scan_all()
            _check_refused(meta)
        if meta["conversations"]:
            known = tokenizer.vocab_size
            tokenizer = tokenizer.with_chat()
            if tokenizer.vocab_size > known:
                self._event(
                    "chat_markers",
                    "warning",
                    None,
                    "the tokenizer has no chat template: Lumina's own markers were "
                    f"added ({tokenizer.vocab_size - known} tokens), which an "
                    "imported model has never seen",
                    tokens=tokenizer.vocab_size - known,
                )
        skipped = [Skipped(**record) for record in meta["skipped"]]
        train, evaluation = _opened(folder)
        stats = _stats(train, evaluation, tokenizer, meta)
        stats["ignored_files"] = count_left_out(
            [*self.data.train_data, *self.data.eval_data]
        )
        stats["cached"] = cached
        stats["seconds"] = time.monotonic() - began
        self._tell(stats, skipped, evaluation)
        return Prepared(train, evaluation, tokenizer, stats, skipped)

    @cached_property
    def sources(self) -> list[Any]:
        """What the data is: content of the files, and how they are read."""
        hashes = [
            [[file_format(file), known_hash(file)] for file in files]
            for files in (self.files, self.eval_files)
        ]
        return [_READING, *hashes, self.data.max_record_bytes, self.data.eval_fraction]

    @cached_property
    def scanned(self) -> Scan:
        return self._scan(self.files)

    @cached_property
    def scanned_eval(self) -> Scan | None:
        return self._scan(self.eval_files) if self.eval_files else None

    @cached_property
    def split(self) -> Split:
        return choose_split(
            self.scanned, 0.0 if self.eval_files else self.data.eval_fraction
        )

    def _scan(self, files: Sequence[Path]) -> Scan:
        return scan(
            files,
            errors=self.data.data_errors,
            max_record_bytes=self.data.max_record_bytes,
            on_progress=self.on_progress,
        )

    def _scan_all(self) -> list[Scan]:
        scans = [self.scanned, self.scanned_eval]
        return [found for found in scans if found is not None]

    def _read(self, files: Sequence[Path]) -> Iterator[Document]:
        return read_documents(
            files,
            errors=self.data.data_errors,
            max_record_bytes=self.data.max_record_bytes,
        )

    def _sides(self) -> Iterator[tuple[bool, Document]]:
        return split_documents(self._read(self.files), self.split)

    def _tokenizer(self) -> Tokenizer:
        if self.given is not None:
            return self.given
        if self.data.tokenizer is not None:
            return Tokenizer.from_path(self.data.tokenizer)
        return _trained(self.config, [self])

    def sample(self, most: int) -> Iterator[str]:
        """Text to train a tokenizer on: never held out, spread over all of the data.

        Args:
            most: bytes of it, about.
        """
        total = self.scanned.bytes
        share = min(1.0, most / max(total, 1))
        seen = taken = 0
        for held_out, document in self._sides():
            size = document_bytes(document)
            wanted = not held_out and taken <= share * seen
            seen += size
            if wanted:
                taken += size
                if document.text is not None:
                    yield document.text
                for message in document.messages or ():
                    yield message["content"]
            if self.on_progress is not None:
                self.on_progress("tokenizer", seen, total)

    def _build(
        self, folder: Path, tokenizer: Tokenizer, rows: Rows | None = None
    ) -> None:
        scans = self._scan_all()
        conversations = sum(found.conversations for found in scans)
        if conversations:
            tokenizer = tokenizer.with_chat()
            check_room(
                self.config,
                tokenizer.vocab_size,
                "with the markers of conversations the tokenizer knows",
            )
        size = sum(found.bytes for found in scans)
        documents = sum(map(len, scans))
        width = 2 if tokenizer.vocab_size <= 2**16 else 4
        # A token has at least two bytes of text in most languages.
        require_space(folder, size // 2 * width + 8 * documents, "the token store")
        marked = any(found.marked for found in scans)
        # Of a divided conversation, what is repeated bears no loss.
        masked = marked or bool(
            conversations and (self.data.loss_on == "assistant" or rows is not None)
        )
        written = self._write(folder, tokenizer, masked, size, rows)
        scans.append(written.refused)
        left_out = written.refused.skipped_codes.total()
        codes = sum((found.skipped_codes for found in scans), start=Counter[str]())
        meta = {
            "documents": documents - left_out,
            "conversations": conversations - left_out,
            "skipped_total": codes.total(),
            "skipped_codes": dict(codes),
            "ignored_fields": most_first(
                sum((found.unread for found in scans), start=Counter[str]())
            ),
            "eval_documents_trained_on": self._trained_on(),
            "unknown_tokens": written.unknown,
            "longest_conversation": written.longest,
            "long": asdict(written.long),
            "skipped": [asdict(s) for found in scans for s in found.skipped],
        }
        (folder / "meta.json").write_text(json.dumps(meta) + "\n")

    def _trained_on(self) -> int:
        """How many documents of the eval data stand in the training data, too."""
        held_out = self.scanned_eval
        if held_out is None:
            return 0
        return int(np.isin(held_out.hashes, self.scanned.hashes).sum())

    def _write(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        masked: bool,
        total: int,
        rows: Rows | None,
    ) -> _Written:
        """Encode everything into the stores `train` and, if there is any, `eval`."""
        unknown_id, found = tokenizer.unknown_id, _Written()

        def writer(name: str) -> StoreWriter:
            (folder / name).mkdir()
            return StoreWriter(folder / name, tokenizer.vocab_size, masked)

        def documents() -> Iterator[tuple[bool, Document]]:
            yield from self._sides()
            for document in self._read(self.eval_files) if self.eval_files else ():
                yield True, document

        train = writer("train")
        held_out = writer("eval") if self.eval_files or self.split.any else None
        done = 0
        for item in encode_documents(
            documents(),
            tokenizer,
            loss_on=self.data.loss_on,
            threads=self.threads,
            rows=rows,
            on_skip=found.refused.skip if self.data.data_errors == "skip" else None,
        ):
            if unknown_id is not None:
                found.unknown += int((item.ids == unknown_id).sum())
            if item.conversation:
                found.longest = max(found.longest, len(item.ids))
            if item.long is not None:
                found.long += item.long
            target = held_out if item.held_out and held_out is not None else train
            target.add(
                item.ids,
                item.mask,
                text_bytes=item.text_bytes,
                loss_bytes=item.loss_bytes,
                last=item.last,
            )
            done += item.text_bytes
            if self.on_progress is not None:
                self.on_progress("tokenise", done, total)
        for store in (train, held_out):
            if store is not None:
                store.close()
        refused = found.refused.skipped
        empty = [one for one in (train, held_out) if one is not None and not one.length]
        if refused and (train in empty or (self.eval_files and held_out in empty)):
            raise _refused(refused[0], "no conversation is left; the first: ")
        if held_out in empty:
            shutil.rmtree(folder / "eval")  # all of it is refused, or longer than a row
        return found

    def _event(
        self, kind: str, severity: str, code: str | None, message: str, **data: Any
    ) -> None:
        if self.on_event is not None:
            self.on_event(
                kind=kind, severity=severity, code=code, message=message, **data
            )

    def _tell_skipped(self, skipped: list[Skipped]) -> None:
        """An event for each of the first records that are left out."""
        for record in skipped[:_TOLD]:
            where = record.source
            if record.line is not None:
                where += f", line {record.line}"
            self._event(
                "data_skipped",
                "warning",
                record.code,
                f"{where}: {record.reason}",
                source=record.source,
                line=record.line,
            )

    def _tell(
        self,
        stats: dict[str, Any],
        skipped: list[Skipped],
        evaluation: TokenStore | None,
    ) -> None:
        """Events about what a user should know."""
        self._tell_skipped(skipped)
        total = stats["skipped"]
        if total > _TOLD:
            self._event(
                "data_skipped",
                "warning",
                None,
                f"{total} bad records were left out in all",
                count=total,
                codes=stats["skipped_codes"],
            )
        tell_left_out(stats["ignored_files"], self.on_event)
        tell_repeated(self.data.train_data, self.on_event)
        if stats["ignored_fields"]:
            self._event(
                "data_fields_ignored",
                "warning",
                None,
                "fields of the records that nothing reads: "
                f"{counted(stats['ignored_fields'])}; what they say is not trained on",
                counts=stats["ignored_fields"],
            )
        if stats["unknown_tokens"]:
            count = stats["unknown_tokens"]
            self._event(
                "data_unknown_characters",
                "warning",
                None,
                f"{count:,} tokens of the data stand for characters that the tokenizer "
                "has no token for; the model cannot learn them: name another tokenizer "
                "with --tokenizer, or take such characters out of the data",
                count=count,
            )
        if stats["eval_documents_trained_on"]:
            count, of = stats["eval_documents_trained_on"], stats["eval_documents"]
            self._event(
                "eval_data_trained_on",
                "warning",
                None,
                f"{count:,} of the {of:,} documents of the eval data are in the "
                "training data, too: their loss says how well they were learned, not "
                "how the model does on text it has not seen",
                count=count,
            )
        for note in stats["tokenizer_notes"]:
            self._event("tokenizer", "info", None, note)
        if evaluation is None:
            self._event("data_no_eval", "warning", None, NO_EVAL)


@dataclass
class _Written:
    """What is known once everything is encoded.

    Attributes:
        unknown: tokens that stand for characters the tokenizer does not know.
        longest: tokens of the longest conversation.
        long: what became of conversations that are longer than a row.
        refused: conversations that the model's chat template does not take.
    """

    unknown: int = 0
    longest: int = 0
    long: Long = field(default_factory=Long)
    refused: Scan = field(default_factory=Scan)


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
        on_event: told what became of conversations that are longer.

    Raises:
        LuminaError: E105 where nothing to learn is left, E108 where a chat template
            does not let the turns be found; as `prepare`.
    """
    mode = config.data.long_conversations
    longest = prepared.stats["longest_conversation"]
    if longest <= length + 1:
        return prepared
    if mode == "cut":
        if on_event is not None:
            on_event(
                kind="data_long_conversations",
                severity="warning",
                code=None,
                message="conversations longer than a row are cut where it ends, and "
                "go on in another row without their question "
                f"(--long-conversations cut); the longest has {longest:,} tokens",
                mode=mode,
                longest=longest,
                row=length,
            )
        return prepared
    part = _Preparation(config, prepared.tokenizer, on_progress, on_event)
    return part.fit(prepared, length)


def _check_refused(meta: dict[str, Any]) -> None:
    """Refuse a store that was made when refused conversations were left out."""
    for record in meta["skipped"]:
        if record["code"] == "E108":
            raise _refused(Skipped(**record))


def _refused(record: Skipped, before: str = "") -> LuminaError:
    """What a model's chat template does not take, where that is an error."""
    return LuminaError(
        record.code,
        f"{before}{record.source}, line {record.line}: {record.reason}",
        "give turns that the model was made for, or remove the template from its "
        "folder: then Lumina's own chat markers are used",
    )


def shared_tokenizer(
    config: Config, configs: Sequence[Config], on_progress: Progress | None = None
) -> Tokenizer:
    """One tokenizer for several sets of data, trained on all of them.

    Args:
        config: for the size of the vocabulary.
        configs: each names one set of data.
        on_progress: as for `prepare`.
    """
    parts = [_Preparation(one, None, on_progress, None) for one in configs]
    return _trained(config, parts)


def _trained(config: Config, parts: Sequence[_Preparation]) -> Tokenizer:
    """A tokenizer trained on samples of equal size."""
    sources = [part.sources for part in parts]
    size = _vocab_size(config, [file for part in parts for file in part.files])
    key = _key(
        sources[0] if len(parts) == 1 else sources,
        size,
        SAMPLE_BYTES,
        tokenizers.__version__,
    )
    most = SAMPLE_BYTES // len(parts)

    def texts() -> Iterator[str]:
        for part in parts:
            yield from part.sample(most)

    tokenizer, _ = build_once(
        cache_root() / "tokenizers",
        key,
        lambda folder: Tokenizer.train(texts(), size).save(folder),
        Tokenizer.from_path,
    )
    return tokenizer


def _vocab_size(config: Config, files: Sequence[Path]) -> int:
    """As asked for; else by the amount of data, within what the model has."""
    if config.data.tokenizer_vocab_size is not None:
        return config.data.tokenizer_vocab_size
    total = sum(os.path.getsize(file) for file in files)
    most = config.model.vocab_size
    size = next(v for limit, v in _VOCABULARIES if limit is None or total <= limit)
    return size if most is None else min(size, most)


def _chat_parts(tokenizer: Tokenizer) -> list[str]:
    """What decides a conversation's ids besides the vocabulary: a model's template."""
    chat_format = tokenizer.chat_format
    return [chat_format.fingerprint] if chat_format and chat_format.fingerprint else []


def _load(folder: Path) -> tuple[Path, dict[str, Any]]:
    """A finished folder of stores, every byte checked; LuminaError if damaged."""
    for name in ("train", "eval"):
        if name == "train" or (folder / name).is_dir():
            TokenStore.open(folder / name).verify()
    try:
        return folder, json.loads((folder / "meta.json").read_bytes())
    except (OSError, ValueError) as error:
        raise LuminaError(
            "E101", f"{folder}: damaged: {error}", "remove this folder of the cache"
        ) from None


def _counts(meta: dict[str, Any]) -> dict[str, Any]:
    """How much there is, and what was left out."""
    return {
        "documents": meta["documents"],
        "conversations": meta["conversations"],
        "skipped": meta["skipped_total"],
        "skipped_codes": meta["skipped_codes"],
    }


def _stats(
    train: TokenStore,
    evaluation: TokenStore | None,
    tokenizer: Tokenizer,
    meta: dict[str, Any],
) -> dict[str, Any]:
    stats: dict[str, Any] = {
        **_counts(meta),
        "ignored_fields": meta["ignored_fields"],
        "unknown_tokens": meta["unknown_tokens"],
        "eval_documents_trained_on": meta["eval_documents_trained_on"],
        "longest_conversation": meta["longest_conversation"],
        "long_conversations": None,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "tokenizer_notes": list(tokenizer.notes),
    }
    return stats | _sides(train, evaluation)


def _opened(folder: Path) -> tuple[TokenStore, TokenStore | None]:
    """The stores in a finished folder: to learn from, and held out."""
    held_out = folder / "eval"
    return (
        TokenStore.open(folder / "train"),
        TokenStore.open(held_out) if held_out.is_dir() else None,
    )


def _sides(train: TokenStore, evaluation: TokenStore | None) -> dict[str, Any]:
    """Counts of the two sides; null where nothing is held out."""
    stats: dict[str, Any] = {}
    for side, store in (("train", train), ("eval", evaluation)):
        if store is not None:
            stats[f"{side}_documents"] = len(store)
            stats[f"{side}_tokens"] = len(store.tokens)
            stats[f"{side}_loss_tokens"] = store.loss_tokens
            stats[f"{side}_bytes"] = store.bytes
            stats[f"{side}_fingerprint"] = store.fingerprint
    return stats


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]
