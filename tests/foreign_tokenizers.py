"""Tokenizers of makes that write the space before a word in their own ways."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer as Backend
from tokenizers import (
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TEXT = (
    "def foo(x):\n    return x + 1\n\nclass Bar:\n  pass  # it is a bar of 12\n"
    "The quick brown fox jumps over the lazy dog. He said: return it!\n"
)
MAKES = ("prepend", "first", "always", "never", "unigram", "bytes", "bytes-prefix")


def foreign_tokenizer(make: str, folder: Path) -> Path:
    """Write a tokenizer of one of `MAKES` into `folder`, and return it."""
    backend = _bytes(make) if make.startswith("bytes") else _words(make)
    folder.mkdir(parents=True, exist_ok=True)
    begin = ("<s>", backend.token_to_id("<s>"))
    backend.post_processor = processors.TemplateProcessing(  # as Llama-2's
        single=["<s>", "$A"], special_tokens=[begin]
    )
    backend.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**config, "tokenizer_class": "PreTrainedTokenizerFast"})
    )
    return folder


def _bytes(make: str) -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=make == "bytes-prefix"
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    backend.train_from_iterator([TEXT] * 4, trainer)
    return backend


def _words(make: str) -> Backend:
    """As SentencePiece writes a space: a mark that belongs to the word behind it."""
    specials = ["<unk>", "<s>", "</s>"]
    trainer: trainers.Trainer
    if make == "unigram":
        backend = Backend(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=90,
            special_tokens=specials,
            unk_token="<unk>",
            show_progress=False,
        )
    else:
        backend = Backend(models.BPE(unk_token="<unk>", fuse_unk=True))
        trainer = trainers.BpeTrainer(
            vocab_size=150,
            special_tokens=specials,
            initial_alphabet=["\n"],
            show_progress=False,
        )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    # Line by line, as SentencePiece learns: no token holds a line end and a letter.
    backend.train_from_iterator(TEXT.splitlines() * 4, trainer)
    if make == "unigram":
        backend.decoder = decoders.Metaspace(prepend_scheme="always")
        return backend
    if make == "prepend":
        state = json.loads(backend.to_str())
        state["pre_tokenizer"] = None
        backend = Backend.from_str(json.dumps(state))
        backend.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
    else:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(
            prepend_scheme=make, split=False
        )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend
