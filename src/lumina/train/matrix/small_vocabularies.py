"""Small tokenizers of the makes of others, learned from the texts of the matrix.

The vocabularies themselves belong to their owners, and some are given out on request
alone. What a training meets of a make is here: how it cuts a text, its letters for
bytes, where its marks stand, and its files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from lumina.data.tokenizer_makes.byte_bpe import byte_level
from lumina.data.tokenizer_makes.cuts import cuts

SIZE = 400
"""Tokens that each learns, its marks among them; 256 are bytes."""

Learn = Callable[[Sequence[str], Sequence[str]], Tokenizer]
"""Special tokens and texts -> a tokenizer that has learned from them."""


@dataclass(frozen=True)
class Kind:
    """One make of tokenizer.

    Attributes:
        model: which model's tokenizer is of this make.
        learn: makes one.
        begin: the mark before a text; "": none.
        end: the mark after a document.
        marks: all special tokens, in the order of their ids.
    """

    model: str
    learn: Learn
    begin: str
    end: str
    marks: tuple[str, ...]


def write_vocabularies(folder: Path, texts: Sequence[str]) -> dict[str, Path]:
    """Write a folder for each of `KINDS`; returns name -> folder.

    Args:
        folder: where they go; it is made.
        texts: what they learn from.
    """
    return {name: _write(kind, folder / name, texts) for name, kind in KINDS.items()}


def _write(kind: Kind, folder: Path, texts: Sequence[str]) -> Path:
    tokenizer = kind.learn(kind.marks, texts)
    if kind.begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[kind.begin, "$A"],
            special_tokens=[(kind.begin, tokenizer.token_to_id(kind.begin))],
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": kind.begin or None,
        "eos_token": kind.end,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder


def _bytes(way: str) -> Learn:
    """Byte-level BPE that cuts texts in a way of `cuts`."""

    def learn(marks: Sequence[str], texts: Sequence[str]) -> Tokenizer:
        tokenizer = byte_level({}, [], cuts(way))
        trainer = trainers.BpeTrainer(
            vocab_size=SIZE,
            special_tokens=list(marks),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return tokenizer

    return learn


def _pieces(marks: Sequence[str], texts: Sequence[str]) -> Tokenizer:
    """As SentencePiece's BPE: a mark for a space, and bytes for what it lacks."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    in_bytes = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=[*marks[:3], *in_bytes, *marks[3:]],
        show_progress=False,
    )
    lines = [line for text in texts for line in text.splitlines()]
    tokenizer.train_from_iterator(lines, trainer)
    state = json.loads(tokenizer.to_str())
    # Bytes are text, unlike marks; and nothing is cut once it has learned.
    added = [one for one in state["added_tokens"] if one["content"] in marks]
    state |= {"added_tokens": added, "pre_tokenizer": None}
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


KINDS = {
    "llama3": Kind(
        "Llama 3",
        _bytes("llama-bpe"),
        "<|begin_of_text|>",
        "<|end_of_text|>",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
    ),
    "code_llama": Kind(
        "Code Llama",
        _pieces,
        "<s>",
        "</s>",
        ("<unk>", "<s>", "</s>", "▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),
    ),
    "deepseek_v2": Kind(
        "DeepSeek-Coder V2",
        _bytes("deepseek-llm"),
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        (
            "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜fim▁begin｜>",
            "<｜fim▁hole｜>", "<｜fim▁end｜>",
        ),
    ),
    "starcoder2": Kind(
        "StarCoder2",
        _bytes("starcoder"),
        "",
        "<|endoftext|>",
        ("<|endoftext|>", "<fim_prefix>", "<fim_middle>", "<fim_suffix>", "<fim_pad>"),
    ),
}  # fmt: skip
"""Name -> make."""
