"""A file of ranks, as tiktoken writes a vocabulary: a token in base64 and its rank.

tiktoken merges the two neighbours whose joined bytes have the lowest rank. The merges
of the tokenizers library are pairs, so every way to cut a token into two others becomes
one. The file holds neither the pattern that cuts texts into words nor the special
tokens: these belong to the name of the encoding.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from lumina.data.tokenizer_makes.byte_bpe import add_tokens, byte_letters, byte_level
from lumina.data.tokenizer_makes.cuts import cuts
from lumina.data.tokenizer_makes.make import Make, Stored, broken, only_file
from lumina.errors import LuminaError

_MOST_BYTES = 2**26
"""A larger file is no vocabulary."""

_FILL_IN = {"<|fim_prefix|>": 1, "<|fim_middle|>": 2, "<|fim_suffix|>": 3}
_END = "<|endoftext|>"


@dataclass(frozen=True)
class Encoding:
    """An encoding that OpenAI published.

    Attributes:
        way: how it cuts a text into words, of `cuts`.
        specials: special token → id.
        digest: sha256 of the published file of ranks.
        file: the stem of that file's name.
    """

    way: str
    specials: dict[str, int]
    digest: str
    file: str


_R50K = "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930"
_P50K = "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069"
_CL100K = "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7"
_O200K = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"

ENCODINGS = {
    "r50k_base": Encoding("gpt-2", {_END: 50256}, _R50K, "r50k_base"),
    "p50k_base": Encoding("gpt-2", {_END: 50256}, _P50K, "p50k_base"),
    "p50k_edit": Encoding(
        "gpt-2",
        {_END: 50256} | {token: 50280 + n for token, n in _FILL_IN.items()},
        _P50K,
        "p50k_base",
    ),
    "cl100k_base": Encoding(
        "cl100k",
        {_END: 100257}
        | {token: 100257 + n for token, n in _FILL_IN.items()}
        | {"<|endofprompt|>": 100276},
        _CL100K,
        "cl100k_base",
    ),
    "o200k_base": Encoding(
        "o200k", {_END: 199999, "<|endofprompt|>": 200018}, _O200K, "o200k_base"
    ),
}


def cached_file(name: str) -> Path:
    """The file of an encoding in the cache of the tiktoken library.

    Args:
        name: a key of `ENCODINGS`.

    Raises:
        LuminaError: E104 where it is not there.
    """
    encoding = ENCODINGS[name]
    address = (
        f"https://openaipublic.blob.core.windows.net/encodings/{encoding.file}.tiktoken"
    )
    cached = hashlib.sha1(address.encode(), usedforsecurity=False).hexdigest()
    folders = [
        os.environ.get("TIKTOKEN_CACHE_DIR"),
        os.environ.get("DATA_GYM_CACHE_DIR"),
        os.path.join(tempfile.gettempdir(), "data-gym-cache"),
    ]
    for folder in filter(None, folders):
        for file in (cached, f"{encoding.file}.tiktoken"):
            path = Path(folder) / file
            if path.is_file():
                return path
    raise LuminaError(
        "E104",
        f"{name}: the file of this encoding is not in the cache of tiktoken "
        f"({', '.join(filter(None, folders))})",
        f"fetch {address} and give its path with --tokenizer, or name its folder in "
        "TIKTOKEN_CACHE_DIR",
    )


def _named(name: str) -> Stored | None:
    """Read the encoding of this name, if it is one, from tiktoken's cache."""
    if name not in ENCODINGS:
        return None
    path = cached_file(name)
    data = _content(path)
    if hashlib.sha256(data).hexdigest() != ENCODINGS[name].digest:
        raise broken(path, f"this is not the published file of {name}")
    return _stored(path, data, name)


def _read(path: Path) -> Stored:
    data = _content(path)
    digest = hashlib.sha256(data).hexdigest()
    stem = path.name.removesuffix(".tiktoken")
    by_content = [name for name, one in ENCODINGS.items() if one.digest == digest]
    if stem in by_content:
        return _stored(path, data, stem)
    if by_content:
        return _stored(path, data, by_content[0])
    if stem in ENCODINGS:
        raise broken(path, f"its name is {stem}, but its content is another one")
    raise LuminaError(
        "E101",
        f"{path}: ranks of an encoding that is not known ({', '.join(ENCODINGS)} are): "
        "the file does not say how texts are cut into words",
        "give the model's tokenizer.json instead",
    )


def _content(path: Path) -> bytes:
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise broken(path, f"{size:,} bytes are too many for a vocabulary")
    return path.read_bytes()


def _ranks(path: Path, data: bytes) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.splitlines(), start=1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise broken(path, f"line {number} is not a token and its rank") from None
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise broken(path, f"there is no token for byte 0x{missing[0]:02x}")
    if len(set(ranks.values())) != len(ranks):
        raise broken(path, "two tokens have the same rank")
    return ranks


def _stored(path: Path, data: bytes, name: str) -> Stored:
    encoding = ENCODINGS[name]
    backend = _backend(_ranks(path, data), encoding)
    end = {"eos_token": _END, "pad_token": _END, "bos_token": None}
    return Stored(backend, path, end, (f"the encoding {name} of tiktoken",))


def _backend(ranks: dict[bytes, int], encoding: Encoding) -> tokenizers.Tokenizer:
    letters = byte_letters()
    spelled = {token: "".join(map(letters.__getitem__, token)) for token in ranks}
    merges = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in ranks and right in ranks:
                merges.append((rank, ranks[left], ranks[right], left, right))
    merges.sort()
    vocabulary = {spelled[token]: rank for token, rank in ranks.items()}
    # Special tokens do not follow the ranks without a gap, and ids that the vocabulary
    # itself gives are kept.
    vocabulary |= encoding.specials
    backend = byte_level(
        vocabulary,
        [(spelled[left], spelled[right]) for *_, left, right in merges],
        cuts(encoding.way),
    )
    add_tokens(backend, list(encoding.specials))
    return backend


def _claims(path: Path) -> bool:
    if path.suffix == ".tiktoken":
        return True
    with open(path, "rb") as handle:
        first = handle.readline(4096).split()
    try:
        return (
            len(first) == 2
            and first[1].isdigit()
            and bool(base64.b64decode(first[0], validate=True))
        )
    except binascii.Error:
        return False


MAKE = Make(
    "tiktoken",
    "a file of ranks (*.tiktoken)",
    find=lambda folder: only_file(folder, "*.tiktoken"),
    claims=_claims,
    read=_read,
    named=_named,
)
