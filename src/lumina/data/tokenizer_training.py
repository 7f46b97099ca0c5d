"""A tokenizer trained on the text that a configuration names, kept in the cache."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import tokenizers

from lumina.cache_root import cache_root
from lumina.data.cache import build_once
from lumina.data.sources.entry import Source
from lumina.data.split import Progress
from lumina.data.store_folder import cache_key
from lumina.data.text_files import TextFiles
from lumina.data.tokenizer import Tokenizer

if TYPE_CHECKING:
    from lumina.config import Config

SAMPLE_BYTES = 32 * 2**20
"""The most text a tokenizer is trained on."""

# Vocabulary of a tokenizer trained on up to this many bytes of data.
_VOCABULARIES = ((8 * 2**20, 2048), (64 * 2**20, 8192), (2**30, 32768), (None, 50304))


def shared_tokenizer(
    config: Config, configs: Sequence[Config], on_progress: Progress | None = None
) -> Tokenizer:
    """One tokenizer for several sets of data, trained on all of them.

    Args:
        config: for the size of the vocabulary.
        configs: each names one set of data.
        on_progress: as for `prepare`.
    """
    parts = [TextFiles(one, on_progress) for one in configs]
    return trained_tokenizer(config, parts)


def trained_tokenizer(config: Config, parts: Sequence[TextFiles]) -> Tokenizer:
    """A tokenizer trained on samples of equal size."""
    sources = [part.sources for part in parts]
    size = vocabulary_size(config, [file for part in parts for file in part.files])
    key = cache_key(
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


def vocabulary_size(config: Config, files: Sequence[Source]) -> int:
    """As asked for; else by the amount of data, within what the model has."""
    if config.data.tokenizer_vocab_size is not None:
        return config.data.tokenizer_vocab_size
    total = sum(file.size for file in files)
    most = config.model.vocab_size
    size = next(v for limit, v in _VOCABULARIES if limit is None or total <= limit)
    return size if most is None else min(size, most)
