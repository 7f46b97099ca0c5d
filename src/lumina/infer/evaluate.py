"""How well a trained model predicts the text of files, measured as in training."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from lumina.config import Config
from lumina.data.data_events import OnEvent
from lumina.data.prepare import Prepared, fit_rows, prepare
from lumina.data.sources.find import find_sources
from lumina.data.store import TokenStore
from lumina.errors import LuminaError
from lumina.infer.evaluated_model import open_evaluated
from lumina.infer.kv.rounding import Rounding, measure_rounding
from lumina.infer.kv.settings import CacheSettings
from lumina.infer.load import Model, Precision
from lumina.measure.held_out import HeldOut, OnRows, loss_of_text
from lumina.model.network import Network
from lumina.state.weights import Which

ROUNDING_TOKENS = 65_536
"""Most tokens that are read through a cache to see what it costs."""

_NO_NEWS = ("data_no_eval", "data_forms", "data_example", "chat_template")


@dataclass(frozen=True)
class Evaluation:
    """How a model did on some files.

    Attributes:
        model: which weights these are.
        loss: mean cross entropy of a token that bears loss, in nats.
        perplexity: exp(loss).
        bits_per_byte: bits for each byte of UTF-8 text that bears loss, end markers
            included; compares models with different tokenizers. None where no text
            bears loss.
        tokens: how many tokens the mean is over.
        bytes: of the text that bears loss.
        documents: texts and conversations that were read.
        accuracy: share of the tokens that were the most likely ones.
        row_length: most tokens that the model read at a time.
        segments: mean segments of a token, in a model that halts by token; else None.
        skipped: bad records that were left out.
        cache: what a cache of other keys and values costs, where one was named.
    """

    model: str
    loss: float
    perplexity: float
    bits_per_byte: float | None
    tokens: int
    bytes: int
    documents: int
    accuracy: float | None
    row_length: int
    segments: float | None = None
    skipped: int = 0
    cache: Rounding | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; None in place of a number that is not finite."""
        return {
            name: None if isinstance(x, float) and not math.isfinite(x) else x
            for name, x in asdict(self).items()
        }


def evaluate(
    run: Model,
    data: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    device: str = "auto",
    precision: Precision = "auto",
    which: Which = "latest",
    ema: bool = False,
    task: str | None = None,
    adapters: Sequence[str] = (),
    seq_length: int | None = None,
    batch_size: int | None = None,
    loss_on: str | None = None,
    format: str | None = None,
    field: Sequence[str] = (),
    data_errors: Literal["fatal", "skip"] = "fatal",
    cache: CacheSettings | None = None,
    on_event: OnEvent | None = None,
    on_rows: OnRows | None = None,
) -> Evaluation:
    """Loss, perplexity and bits per byte of a trained model on files.

    The files are read, tokenised and put into rows as those that training holds out,
    so on a run's own held-out files this is the run's `eval_loss`.

    Args:
        run: a run directory, a checkpoint or an exported folder, or what `lumina.load`
            returns; a loaded model stays where it is and as it is.
        data: files, folders or globs, as for `train_data`.
        device: "auto" takes a GPU where there is one; or "cpu", "cuda", "cuda:1".
        precision: "auto" is bf16 on GPUs that have it, else fp32; "int8" keeps the
            large matrices in 8 bits.
        which: of a run, the newest good checkpoint or the best evaluated one.
        ema: the moving average of the weights, which training's own evaluation uses
            where there is one.
        task: of a model of several tasks, the one that the files belong to.
        adapters: folders of adapters that are added to the model, as `lumina.load`
            takes them.
        seq_length: positions of a row; None: those the model was trained on.
        batch_size: rows side by side; the result does not depend on it.
        loss_on: what of conversations bears loss, as in a configuration; None: as the
            run was trained, and for other models "assistant". Weights of the run
            decide only which tokens bear loss: in the result each counts the same.
        format: the form of the records, as in a configuration; None: that of the run's
            data, where one was stated.
        field: fields under other names, likewise.
        data_errors: stop at a bad record, or leave it out.
        cache: read the first 65,536 tokens with a cache of this kind too, and compare
            with a plain one.
        on_event: called for what was skipped and for remarks on the weights.
        on_rows: called with the progress.

    Raises:
        LuminaError: as `lumina.load`; E002 for a model of puzzles; E005 where a task is
            to be named; E101 to E106 for the data; E102 for conversations that the
            model has no markers for; E105 where nothing bears loss.
    """
    names = [data] if isinstance(data, str | os.PathLike) else list(data)
    files = [os.path.expanduser(name) for name in names]
    find_sources(files)  # missing ones are refused before the model is read
    if batch_size is not None and batch_size < 1:
        raise LuminaError("E005", f"batch-size is {batch_size}", "give 1 or more")
    opened = open_evaluated(
        run,
        device=device,
        precision=precision,
        which=which,
        ema=ema,
        task=task,
        adapters=adapters,
        on_event=on_event,
    )
    network, tokenizer = opened.network, opened.tokenizer
    named, settings = opened.description, opened.settings
    length = _row_length(network, seq_length)
    if cache is not None:
        cache.check(network)
    config = Config(
        train_data=files,
        eval_fraction=0.0,
        **_loss(loss_on, settings),
        **_form(format, field, settings),
        data_errors=data_errors,
        long_conversations=_long_conversations(settings),
        **{k: settings[k] for k in ("max_record_bytes", "ascii_only") if k in settings},
    )
    prepared = prepare(config, tokenizer=tokenizer, on_event=_without_split(on_event))
    _check_data(prepared, network)
    prepared = fit_rows(prepared, config, length, on_event=_without_split(on_event))
    outcome = loss_of_text(network, prepared.train, length, batch_size, on_rows)
    rounding = None
    if cache is not None:
        rows = _rows_of(prepared.train, length)
        rounding = measure_rounding(network, rows, cache, on_rows)
    return replace(_evaluation(outcome, prepared, named, length), cache=rounding)


def _rows_of(store: TokenStore, length: int) -> list[list[int]]:
    """The first documents, cut into rows of two tokens and more."""
    rows: list[list[int]] = []
    room = ROUNDING_TOKENS
    for index in range(len(store)):
        ids = store.document(index)[:room].tolist()
        room -= len(ids)
        rows += [ids[i : i + length] for i in range(0, len(ids) - 1, length)]
        if not room:
            break
    return rows


def _loss(loss_on: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """The tokens that bear loss: as named, or as in the run; each counts the same."""
    if loss_on is not None:
        return {"loss_on": loss_on}
    names = ("loss_on", "role_weights", "turn_weights")
    return {name: settings[name] for name in names if name in settings}


def _form(
    format: str | None, field: Sequence[str], settings: dict[str, Any]
) -> dict[str, Any]:
    """The form of the records: as stated, or as it was for the run."""
    if format is not None or field:
        return {"format": format, "field": tuple(field)}
    return {name: settings[name] for name in ("format", "field") if name in settings}


def _long_conversations(settings: dict[str, Any]) -> Any:
    """As the run did with them; one of an earlier version cut them."""
    return settings.get("long_conversations", "cut" if settings else "split")


def _row_length(network: Network, asked: int | None) -> int:
    """Positions of a row."""
    spec = network.spec
    if asked is None:
        return spec.seq_length
    if asked < 1:
        raise LuminaError("E005", f"seq-length is {asked}", "give 1 or more")
    if spec.pos_encodings == "learned" and asked > spec.seq_length:
        raise LuminaError(
            "E002",
            f"the model has learned {spec.seq_length:,} positions, not {asked:,}",
            f"leave --seq-length out, or give at most {spec.seq_length}",
        )
    return asked


def _without_split(on_event: OnEvent | None) -> OnEvent | None:
    """Nothing is held out of these files, and nothing trained on: that is no news."""
    if on_event is None:
        return None

    def told(**event: Any) -> None:
        if event["kind"] not in _NO_NEWS:
            on_event(**event)

    return told


def _check_data(prepared: Prepared, network: Network) -> None:
    """There is something to predict, in tokens that the model has."""
    found, known = prepared.tokenizer.vocab_size, network.spec.vocab_size
    if found > known:
        conversations = prepared.stats["conversations"]
        raise LuminaError(
            "E102",
            f"there are conversations in the data, whose markers make {found:,} tokens "
            f"of a vocabulary; the model has {known:,}"
            if conversations
            else f"the tokenizer has {found:,} tokens, the model {known:,}",
            "give texts, or a model that was trained on conversations"
            if conversations
            else "give the tokenizer that the model was trained with",
        )
    if not prepared.train.loss_tokens:
        raise LuminaError(
            "E105", "no token of the data bears loss", "name data with text to predict"
        )


def _evaluation(
    outcome: HeldOut, prepared: Prepared, named: str, length: int
) -> Evaluation:
    """What was measured, with what it was measured on."""
    store, stats = prepared.train, prepared.stats
    bits = store.bits_per_byte(outcome.loss)
    return Evaluation(
        model=named,
        loss=outcome.loss,
        perplexity=outcome.perplexity,
        bits_per_byte=bits if store.loss_bytes else None,
        tokens=outcome.tokens,
        bytes=store.loss_bytes,
        documents=stats["documents"],
        accuracy=outcome.accuracy,
        row_length=length,
        segments=outcome.segments,
        skipped=stats["skipped"],
    )
