"""Documents -> the token stores of a folder in the cache."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lumina.data.cache import require_space
from lumina.data.documents import Document, Skipped
from lumina.data.files import most_first
from lumina.data.loading import encoding_threads
from lumina.data.long_conversations import Long
from lumina.data.loss_rule import loss_rule
from lumina.data.record_forms.turns import NAMES
from lumina.data.shards import OnSkip, Shards
from lumina.data.split import Scan
from lumina.data.store import StoreWriter
from lumina.data.text_files import TextFiles
from lumina.data.tokenise import Encoded, Part, Rows, encode_marked, mark_last
from lumina.data.tokenizer import Tokenizer
from lumina.data.vocabulary import check_room
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config


_ITEM_BYTES = 32
"""Of each document in the file of a shard, beside its tokens."""


@dataclass
class Written:
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


class StoreBuilder:
    """Encodes the documents of files into token stores.

    Args:
        config: the settings.
        files: the documents.
    """

    def __init__(self, config: Config, files: TextFiles) -> None:
        self.config = config
        self.data = config.data
        self.files = files
        self.rule = loss_rule(config.data)
        self.threads = encoding_threads(config)

    def build(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        rows: Rows | None = None,
        shards: Shards | None = None,
    ) -> None:
        """Fill a folder: the stores `train` and perhaps `eval`, and `meta.json`.

        Args:
            folder: is empty.
            tokenizer: makes the tokens.
            rows: divides conversations so that they fit into rows; None: leaves them.
            shards: keep what is done, for another attempt at the same store.
        """
        scans = self.files.scan_all()
        conversations = sum(found.conversations for found in scans)
        if conversations:
            tools = any(found.tools for found in scans)
            tokenizer = tokenizer.with_chat(tools=tools)
            check_room(
                self.config,
                tokenizer.vocab_size,
                "with the markers of conversations the tokenizer knows",
            )
        size = sum(found.bytes for found in scans)
        documents = sum(map(len, scans))
        width = 2 if tokenizer.vocab_size <= 2**16 else 4
        # A token has at least two bytes of text in most languages.
        needed = size // 2 * width + 8 * documents
        if shards is not None:
            needed += size // 2 * 4 + _ITEM_BYTES * documents
        require_space(folder, needed, "the token store")
        marked = any(found.marked for found in scans)
        # Of a divided conversation, what is repeated bears no loss.
        some = self.rule.partial or rows is not None
        masked = marked or bool(conversations and some)
        weighted = any(found.weighted for found in scans) or bool(
            conversations and self.rule.weighted
        )
        written = self._write(folder, tokenizer, (masked, weighted), size, rows, shards)
        if shards is not None:
            shards.remove()
        scans.append(written.refused)
        left_out = written.refused.skipped_codes.total()
        codes = sum((found.skipped_codes for found in scans), start=Counter[str]())
        meta = {
            "documents": documents - left_out,
            "conversations": conversations - left_out,
            "tool_conversations": sum(found.tools for found in scans),
            "forms": [
                [source, dict(forms)]
                for found in scans
                for source, forms in found.forms.items()
            ],
            "skipped_total": codes.total(),
            "skipped_codes": dict(codes),
            "ignored_fields": most_first(_unread(scans, tokenizer)),
            "left_out": sum((found.left_out for found in scans), start=Counter[str]()),
            "beyond": sum((found.beyond for found in scans), start=Counter[str]()),
            "removed": sum((found.removed for found in scans), start=Counter[str]()),
            "eval_documents_trained_on": self.files.trained_on(),
            "unknown_tokens": written.unknown,
            "longest_conversation": written.longest,
            "long": asdict(written.long),
            "skipped": [asdict(s) for found in scans for s in found.skipped],
        }
        (folder / "meta.json").write_text(json.dumps(meta) + "\n")

    def _write(
        self,
        folder: Path,
        tokenizer: Tokenizer,
        marks: tuple[bool, bool],
        total: int,
        rows: Rows | None,
        shards: Shards | None,
    ) -> Written:
        """Encode everything into the stores `train` and, if there is any, `eval`.

        Args:
            folder: holds them.
            tokenizer: makes the tokens.
            marks: whether some tokens bear no loss, and whether some weigh not 1.
            total: bytes of text.
            rows: as for `build`, and so are `shards`.
            shards: keep what is done.
        """
        unknown_id, found = tokenizer.unknown_id, Written()

        def writer(name: str) -> StoreWriter:
            (folder / name).mkdir()
            scored = self.data.quality_field is not None and name == "train"
            return StoreWriter(folder / name, tokenizer.vocab_size, *marks, scored)

        def documents() -> Iterator[tuple[bool, Document]]:
            yield from self.files.sides()
            for document in self.files.held_out():
                yield True, document

        train = writer("train")
        named = bool(self.files.eval_files)
        held_out = writer("eval") if named or self.files.split.any else None
        done = 0

        def encode(parts: Iterable[Part], on_skip: OnSkip | None) -> Iterator[Encoded]:
            return encode_marked(
                parts,
                tokenizer,
                loss_on=self.rule,
                threads=self.threads,
                rows=rows,
                on_skip=on_skip,
            )

        parts = mark_last(documents())
        on_skip = found.refused.skip if self.data.data_errors == "skip" else None
        encoded = (
            encode(parts, on_skip)
            if shards is None
            else shards.encoded(parts, encode, on_skip)
        )
        for item in encoded:
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
                weights=item.weights,
                quality=item.quality,
            )
            done += item.text_bytes
            if self.files.on_progress is not None:
                self.files.on_progress("tokenise", done, total)
        for store in (train, held_out):
            if store is not None:
                store.close()
        refused = found.refused.skipped
        empty = [one for one in (train, held_out) if one is not None and not one.length]
        if refused and (train in empty or (named and held_out in empty)):
            first = "no conversation is left; the first: "
            raise refused_conversation(refused[0], first)
        if held_out in empty:
            shutil.rmtree(folder / "eval")  # all of it is refused, or longer than a row
        return found


def refused_conversation(record: Skipped, before: str = "") -> LuminaError:
    """What a model's chat template does not take, where that is an error."""
    return LuminaError(
        record.code,
        f"{before}{record.source}, line {record.line}: {record.reason}",
        "give turns that the model was made for, or remove the template from its "
        "folder: then Lumina's own chat markers are used",
    )


def _unread(scans: list[Scan], tokenizer: Tokenizer) -> Counter[str]:
    """Fields that nothing reads, without those that the chat template writes."""
    unread = sum((found.unread for found in scans), start=Counter[str]())
    chat_format = tokenizer.chat_format
    for written in NAMES:
        ending = f"[].{written}"
        names = [name for name in unread if name.endswith(ending)]
        if names and chat_format is not None and chat_format.writes(written):
            for name in names:
                del unread[name]
    return unread
