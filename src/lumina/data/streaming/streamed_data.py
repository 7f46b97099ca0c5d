"""Streamed text as the data of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from lumina.batch import Batch
from lumina.data.batches import BatchMaker
from lumina.data.data_events import NO_EVAL, DataEvents
from lumina.data.documents import Skipped
from lumina.data.example import example_in_words
from lumina.data.files import count_left_out, tell_left_out, tell_repeated
from lumina.data.kind import Data, DataKind, Request, Rows, Share
from lumina.data.loading import choose_loading, encoding_threads, in_bytes
from lumina.data.loss_rule import loss_rule
from lumina.data.mixture.row_orders import refuse_counted, refuse_own_order
from lumina.data.order import RowOrder, Sequenced, Taken
from lumina.data.packed_stream import eval_batches
from lumina.data.packing import pack
from lumina.data.prepare import prepare
from lumina.data.sources.find import named_files
from lumina.data.sources.members import DATA
from lumina.data.store import TokenStore
from lumina.data.stream import Read, RowStream
from lumina.data.streaming.head import (
    Head,
    held_out_store,
    look_at,
    trained_on_head,
)
from lumina.data.streaming.sequence import StreamedRows, StreamOptions
from lumina.data.streaming.text_source import TextSource
from lumina.data.streaming.window_rows import gathered
from lumina.data.streaming.windows import Part
from lumina.data.template_choice import (
    begins_and_ends,
    template_in_words,
    with_template,
)
from lumina.data.text_data import beginning
from lumina.data.tokenise import Encoded, encode_parts
from lumina.data.tokenise import Rows as RowsToFit
from lumina.data.tokenizer import Tokenizer
from lumina.data.vocabulary import check_room
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.config.settings import Settings

TOKEN_BYTES = 4
"""Bytes of text that a token has in most languages, for the size of a window."""

MOST_WINDOW_BYTES = 64 * 2**20
"""Rows of any length: no window has more text than this, or one row."""


class StreamedBatches(RowStream):
    """Makes batches of streamed rows.

    Args:
        sequence: the rows.
        seq_length: positions of a row.
        global_batch_size: rows of a step, over all ranks.
        fingerprint: names the data and how it is encoded.
    """

    def __init__(
        self,
        sequence: Sequenced,
        *,
        seq_length: int,
        global_batch_size: int,
        fingerprint: str,
    ) -> None:
        self.order = RowOrder(
            sequence, global_batch_size=global_batch_size, epochs=None
        )
        self.seq_length = seq_length
        self.fingerprint = fingerprint

    def read(self, taken: Taken, mine: Sequence[slice]) -> Read:
        """Packed rows of the windows that were taken."""
        tokens, packing = gathered(taken.contents, self.seq_length)
        maker = BatchMaker(cast(TokenStore, tokens), packing, weighted=tokens.weighted)
        # What decides shapes may not differ from step to step: later rows may have
        # more documents, longer ones, or padding.
        most = max(16, maker.most_documents)
        maker.most_documents = 1 << (most - 1).bit_length()
        maker.longest, maker.one_document_rows = self.seq_length, False
        size = self.order.global_batch_size
        rows = Taken(0, [(0, n) for n in range(len(packing))], {}, None).rows(size)
        counted = maker.count(rows)
        return Read(
            [maker.batch(rows[part]) for part in mine],
            loss_tokens=counted[1],
            tokens=counted[0],
            loss_weight=maker.weight(rows),
        )


class StreamedData(Data):
    """Text that is tokenised while the run trains.

    Args:
        source: the documents.
        tokenizer: makes ids of them; with a chat format where there are conversations.
        held_out: documents to judge; None: none are held out.
        stats: what is known before the run.

    Attributes:
        endless: the data begins again where it ends, whatever the settings say.
    """

    endless = False

    def __init__(
        self,
        source: TextSource,
        tokenizer: Tokenizer,
        held_out: TokenStore | None,
        stats: dict[str, Any],
    ) -> None:
        self.source = source
        self.tokenizer: Tokenizer = tokenizer
        self.evaluation = held_out
        self.stats = stats

    def rows(self, config: Config) -> Rows:
        """Packed rows; how many there are is not known."""
        length, loading = config.model.seq_length, config.loading
        wanted = loading.shuffle_buffer * length * TOKEN_BYTES
        options = StreamOptions(
            seq_length=length,
            window_bytes=max(min(wanted, MOST_WINDOW_BYTES), length * TOKEN_BYTES),
            threads=encoding_threads(config),
            seed=config.train.seed,
            in_order=loading.linear_dataset,
            first=loading.dataset_start_offset,
            endless=self.endless or bool(loading.iterate),
            fingerprint=self.source.fingerprint,
        )
        return Rows(
            vocab_size=self.tokenizer.vocab_size,
            sequence=StreamedRows(
                self.source.documents,
                self._encoder(config),
                options,
                self.source.events,
            ),
            held_out=len(pack(self.evaluation, length)) if self.evaluation else 0,
        )

    def _encoder(self, config: Config) -> Any:
        tokenizer, data = self.tokenizer, config.data
        fit, rule = rows_to_fit(config), loss_rule(data)

        def encode(parts: list[Part]) -> tuple[list[Encoded], list[Skipped]]:
            if tokenizer.chat_format is None:
                _refuse_conversations(parts)
            return encode_parts(
                parts,
                tokenizer,
                loss_on=rule,
                rows=fit,
                skip=data.data_errors == "skip",
            )

        return encode

    def stream(
        self,
        config: Config,
        rows: Rows,
        *,
        global_batch_size: int,
        epochs: float | None,
    ) -> StreamedBatches:
        """Batches of packed rows."""
        assert isinstance(rows.sequence, StreamedRows)
        return StreamedBatches(
            rows.sequence,
            seq_length=config.model.seq_length,
            global_batch_size=global_batch_size,
            fingerprint=self.source.fingerprint,
        )

    @property
    def holds_out(self) -> bool:
        """Whether there are documents to judge."""
        return self.evaluation is not None

    def held_out(self, share: Share) -> Iterator[Batch]:
        """Batches of the documents to judge."""
        assert self.evaluation is not None
        return eval_batches(
            self.evaluation,
            share.seq_length,
            share.batch_size,
            share.limit,
            rank=share.rank,
            data_ranks=share.data_ranks,
        )

    def prompts(self, count: int) -> list[list[int]]:
        """Beginnings of documents to judge, where there are any."""
        store = self.evaluation
        if store is None:
            return []
        return [beginning(store, index) for index in range(min(count, len(store)))]


def rows_to_fit(config: Config) -> RowsToFit | None:
    """The rows that conversations are divided for; None: they are cut."""
    mode = config.data.long_conversations
    return None if mode == "cut" else RowsToFit(config.model.seq_length, mode)


def _refuse_conversations(parts: list[Part]) -> None:
    for document, _ in parts:
        if document.messages is not None:
            raise LuminaError(
                "E102",
                f"{document.source}, line {document.line}: a conversation, and the "
                "beginnings of the streamed files hold none, so that the vocabulary "
                "has no markers of turns",
                "use a --tokenizer with a chat template, --data-loading sharded, or "
                "name a file of conversations first",
            )


def prepare_streamed(request: Request) -> StreamedData:
    """Look at the beginnings of the files, and hold some of their documents out.

    Args:
        request: its settings name the data; its tokenizer is used, where it has one.

    Raises:
        LuminaError: E002 for options that streamed text cannot have; E101 to E106 for
            the files.
    """
    config, told = request.config, DataEvents(request.on_event)
    refuse_own_order(config)
    refuse_counted(config)
    if not config.loading.packing:
        raise LuminaError(
            "E002",
            f"data_loading is {choose_loading(config)}; streamed text is packed, and "
            "packing is off",
            "use --data-loading sharded, or leave --no-packing out",
        )
    source = TextSource(config)
    head = look_at(source)
    tokenizer = request.tokenizer
    if tokenizer is None and config.data.tokenizer is not None:
        tokenizer = Tokenizer.from_path(config.data.tokenizer)
    if tokenizer is None:
        tokenizer = trained_on_head(config, source)
    tokenizer = with_template(tokenizer, config.data.chat_template)
    if head.conversations:
        tokenizer = tokenizer.with_chat(tools=bool(head.tools))
        check_room(
            config,
            tokenizer.vocab_size,
            "with the markers of conversations the tokenizer knows",
        )
    ids, mask = _encoded(config, head, tokenizer)
    forms = [(name, dict(found)) for name, found in head.forms.items()]
    if forms:
        example = example_in_words(ids, mask, tokenizer) if len(ids) else None
        told.forms(forms, example)
    if head.conversations:
        text, odd = template_in_words(tokenizer, ids, config.data.chat_template)
        told.event("chat_template", "warning" if odd else "info", None, text)
    if config.data.eval_data:
        only = config.replace(
            train_data=config.data.eval_data,
            eval_data=(),
            eval_fraction=0.0,
            data_loading="sharded",
        )
        evaluation: TokenStore | None = prepare(
            only, tokenizer=tokenizer, on_event=request.on_event
        ).train
    else:
        evaluation = held_out_store(
            config, source, head, tokenizer, rows_to_fit(config)
        )
    paths = [*config.data.train_data, *config.data.eval_data]
    tell_left_out(count_left_out(paths, DATA), request.on_event, DATA)
    tell_repeated(named_files(config.data.train_data), request.on_event, DATA)
    for event in source.events():
        told.event(**event)
    for note in tokenizer.notes:
        told.event("tokenizer", "info", None, note)
    if evaluation is None:
        told.event("data_no_eval", "warning", None, NO_EVAL)
    stats = {
        "loading": str(choose_loading(config)),
        "files": len(source.files),
        "size": in_bytes(source.bytes),
        "conversations": head.conversations,
        "held_out": f"{source.sides.fraction:.3g} of all contents",
        "eval_documents": len(evaluation) if evaluation else 0,
        "eval_tokens": len(evaluation.tokens) if evaluation else 0,
        "vocab_size": tokenizer.vocab_size,
        "begins_and_ends": begins_and_ends(
            tokenizer,
            ids,
            config.data.chat_template,
            documents=head.documents,
            conversations=head.conversations,
        ),
    }
    return StreamedData(source, tokenizer, evaluation, stats)


def _encoded(
    config: Config, head: Head, tokenizer: Tokenizer
) -> tuple[NDArray[np.uint32], NDArray[np.bool_]]:
    """The ids of the first document to learn from, and which of them bear loss.

    They are none where there is no such document at the beginnings of the files, or the
    chat template refuses it.
    """
    encoded: list[Encoded] = []
    if head.first is not None:
        encoded, _ = encode_parts(
            [(head.first, True)],
            tokenizer,
            loss_on=loss_rule(config.data),
            rows=rows_to_fit(config),
            skip=config.data.data_errors == "skip",
        )
    for one in encoded[:1]:
        return one.ids, one.mask
    return np.zeros(0, np.uint32), np.zeros(0, bool)


def _applies(settings: Settings) -> bool:
    """Whether text is to be streamed; what cannot be found is left to be reported."""
    if not settings.data.train_data:
        return False
    try:
        return choose_loading(settings).way == "streaming"
    except LuminaError:
        return False


KIND = DataKind("streamed", prepare_streamed, applies=_applies, trains_tokenizer=True)
