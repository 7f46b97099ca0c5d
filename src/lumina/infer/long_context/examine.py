"""How far back a model reads, at several lengths."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch.nn import functional as F

from lumina.batch import Batch
from lumina.data.store import TokenStore
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.long_context.needles import Needle, filler, needle
from lumina.model.host_table import device_of
from lumina.model.kinds.table import why_not
from lumina.model.network import Network
from lumina.model.spec import ModelSpec

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of a haystack before the fact."""

READ = 0.9
"""A length counts as read where at least this share of the facts is found."""

FIRST_PLACES = 64
"""Places of the first part of a row, whose loss is given apart; each part after it is
as long as all before it."""

_LOGITS_BYTES = 2**26

OnRow = Callable[[int, int, int], None]
"""Called before each row: its length, rows of that length done, and rows in all."""


@dataclass(frozen=True)
class Part:
    """The loss of some places of rows.

    Attributes:
        begin: the first place.
        end: behind the last one.
        loss: mean cross entropy of a token, in nats.
    """

    begin: int
    end: int
    loss: float

    @property
    def perplexity(self) -> float:
        """exp(loss)."""
        return math.exp(min(self.loss, 700.0))


@dataclass(frozen=True)
class Found:
    """The facts at one depth.

    Attributes:
        depth: share of the haystack before them.
        asked: of them.
        found: of which every token of the answer was the likeliest.
    """

    depth: float
    asked: int
    found: int


@dataclass(frozen=True)
class Reading:
    """What a model did with rows of one length.

    Attributes:
        length: tokens of a row.
        needles: by depth.
        parts: the loss by position; nothing where no data is named.
        rows: of text, over which `parts` are means.
    """

    length: int
    needles: tuple[Found, ...]
    parts: tuple[Part, ...]
    rows: int

    @property
    def recall(self) -> float:
        """Share of the facts that were found."""
        return sum(x.found for x in self.needles) / sum(x.asked for x in self.needles)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        values = asdict(self) | {"recall": self.recall}
        for part, told in zip(self.parts, values["parts"], strict=True):
            told["perplexity"] = part.perplexity
        return values


def stretched(
    spec: ModelSpec, scaling: str, factor: float, original: int | None
) -> ModelSpec:
    """The shape with other positions, which no tensor depends on.

    Args:
        spec: the trained shape.
        scaling: as `rope_scaling` of a configuration.
        factor: as `rope_factor`.
        original: as `rope_original_length`; None: the length that was trained.

    Raises:
        LuminaError: E002 for a model that rotates nothing, or not at this place.
    """
    if spec.pos_encodings != "rope" or why_not(spec, "stretched_positions"):
        raise LuminaError(
            "E002",
            "rope_scaling does nothing: this model does not rotate queries and keys "
            "in its attention alone",
            "leave --rope-scaling out",
        )
    if factor < 1:
        raise LuminaError("E005", f"rope-factor is {factor:g}", "give 1 or more")
    changes: dict[str, Any] = {"rope_scaling": scaling, "rope_factor": factor}
    if scaling in ("yarn", "llama3"):
        trained = spec.rope_original_length or spec.context_length
        changes["rope_original_length"] = original or trained
    if scaling == "llama3":
        changes["rope_low_freq_factor"] = spec.rope_low_freq_factor or 1.0
        changes["rope_high_freq_factor"] = spec.rope_high_freq_factor or 4.0
    return replace(spec, **changes)


def check_lengths(spec: ModelSpec, lengths: Sequence[int]) -> None:
    """Refuse lengths that the model cannot read.

    Raises:
        LuminaError: E005 for lengths of no row, E002 past the last learned position.
    """
    if not lengths or min(lengths) < 2:
        raise LuminaError(
            "E005",
            f"the lengths {list(lengths)} have one of less than 2 tokens"
            if lengths
            else "no length is given",
            "give lengths of 2 tokens or more",
        )
    if spec.pos_encodings == "learned" and max(lengths) > spec.seq_length:
        raise LuminaError(
            "E002",
            f"the model has learned {spec.seq_length:,} positions, not "
            f"{max(lengths):,}",
            f"give lengths of at most {spec.seq_length}",
        )


def examine(
    network: Network,
    tokenizer: Tokenizer,
    lengths: Sequence[int],
    *,
    store: TokenStore | None = None,
    asked: int = 4,
    rows: int = 4,
    seed: int = 0,
    on_row: OnRow | None = None,
) -> list[Reading]:
    """Ask for hidden facts, and measure the loss by position, at several lengths.

    Args:
        network: a model of text, in evaluation mode, of one head.
        tokenizer: its.
        lengths: tokens of the rows.
        store: texts for the loss by position, which are also the haystacks; None:
            haystacks of invented sentences, and no loss.
        asked: facts at each depth.
        rows: rows of text of each length at most.
        seed: of facts and haystacks.
        on_row: called with the progress.

    Raises:
        LuminaError: E105 where no document is as long as a row, E005 for a length that
            has no room for a fact and its question.
    """
    readings = []
    for length in lengths:
        texts = [] if store is None else _rows(store, length, rows)
        hay = filler(tokenizer.encode, length, seed)
        needles = [
            _needle(tokenizer, texts[n % len(texts)] if texts else hay, length, d, n)
            for d in DEPTHS
            for n in range(seed, seed + asked)
        ]
        count, done = len(needles) + len(texts), 0
        right: dict[float, int] = dict.fromkeys(DEPTHS, 0)
        for one in needles:
            if on_row is not None:
                on_row(length, done, count)
            right[one.depth] += _finds(network, one)
            done += 1
        sums: torch.Tensor | None = None
        for ids in texts:
            if on_row is not None:
                on_row(length, done, count)
            losses = _losses(network, ids)
            sums = losses if sums is None else sums + losses
            done += 1
        found = tuple(Found(depth, asked, right[depth]) for depth in DEPTHS)
        parts = () if sums is None else _parts(sums / len(texts))
        readings.append(Reading(length, found, parts, len(texts)))
    return readings


def reach(readings: Sequence[Reading]) -> int:
    """The longest length that is read, with all shorter ones; 0: none of them."""
    longest = 0
    for reading in sorted(readings, key=lambda reading: reading.length):
        if reading.recall < READ:
            break
        longest = reading.length
    return longest


def _rows(store: TokenStore, length: int, most: int) -> list[list[int]]:
    """Rows of one document each, and the token after each row."""
    found: list[list[int]] = []
    longest = 0
    for index in range(len(store)):
        document = store.document(index)
        longest = max(longest, len(document))
        for begin in range(0, len(document) - length, length):
            if len(found) == most:
                return found
            found.append(document[begin : begin + length + 1].tolist())
    if not found:
        raise LuminaError(
            "E105",
            f"no document of the data has {length + 1:,} tokens, which a row of "
            f"{length:,} and its last label take; the longest has {longest:,}",
            "give longer texts or shorter --lengths",
        )
    return found


def _needle(
    tokenizer: Tokenizer, hay: list[int], length: int, depth: float, seed: int
) -> Needle:
    made = needle(tokenizer.encode, tokenizer.begin, hay, length, depth, seed)
    if made is None:
        raise LuminaError(
            "E005",
            f"a row of {length:,} tokens has no room for a fact and its question",
            "give longer --lengths",
        )
    return made


@torch.no_grad()
def _hidden(network: Network, ids: list[int]) -> torch.Tensor:
    """[1, S, D] of one text."""
    device = device_of(network)
    row = torch.tensor([ids], dtype=torch.long, device=device)
    hidden: torch.Tensor = network.backbone(Batch.from_rows(row)).hidden
    return hidden


@torch.no_grad()
def _finds(network: Network, one: Needle) -> bool:
    """Whether each token of the answer is the likeliest after what comes before it."""
    last = _hidden(network, one.ids)[:, -len(one.answer) :]
    likeliest = network._logits(last, None)[0].argmax(-1)
    return likeliest.tolist() == one.answer


@torch.no_grad()
def _losses(network: Network, ids: list[int]) -> torch.Tensor:
    """[S] float64 on the CPU, the cross entropy of each next token."""
    hidden = _hidden(network, ids[:-1])
    labels = torch.tensor(ids[1:], device=hidden.device)
    size = max(1, _LOGITS_BYTES // (4 * network.spec.padded_vocab_size))
    found = [
        F.cross_entropy(network._logits(part, None)[0], wanted, reduction="none")
        for part, wanted in zip(
            hidden.split(size, dim=1), labels.split(size), strict=True
        )
    ]
    return torch.cat(found).double().cpu()


def _parts(losses: torch.Tensor) -> tuple[Part, ...]:
    """The mean of parts of a row that double in length."""
    parts, begin, end = [], 0, FIRST_PLACES
    while begin < len(losses):
        end = min(end, len(losses))
        parts.append(Part(begin, end, float(losses[begin:end].mean())))
        begin, end = end, 2 * end
    return tuple(parts)
