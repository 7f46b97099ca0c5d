"""A vocabulary and a list of merges in two files, as those of GPT-2 and Qwen2.

The files do not say how texts are cut into words. The class of the tokenizer, named in
tokenizer_config.json, does. Without it GPT-2's way is taken: such files had it first.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lumina.data.tokenizer_makes.byte_bpe import add_tokens, byte_level
from lumina.data.tokenizer_makes.cuts import cuts
from lumina.data.tokenizer_makes.make import Make, Stored, broken
from lumina.errors import LuminaError
from lumina.json_objects import read_object

_FILES = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
_WAYS = {"GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}


def _find(folder: Path) -> Path | None:
    for vocabulary, merges in _FILES:
        if (folder / vocabulary).is_file() and (folder / merges).is_file():
            return folder / merges
    return None


def _read(path: Path) -> Stored:
    folder = path.parent
    names = {merges: vocabulary for vocabulary, merges in _FILES}
    vocabulary = _vocabulary(folder / names[path.name])
    config = _config(folder / "tokenizer_config.json")
    kind = str(config.get("tokenizer_class", "GPT2Tokenizer")).removesuffix("Fast")
    if kind not in _WAYS:
        raise LuminaError(
            "E101",
            f"{folder}: how a {kind} cuts texts into words is not in these files",
            "give the model's tokenizer.json",
        )
    merges = _merges(path, vocabulary)
    special: list[str] = []
    plain: list[str] = []
    added = config.get("added_tokens_decoder", {})
    for index, token in sorted(added.items(), key=lambda item: int(item[0])):
        content = token["content"]
        if vocabulary.setdefault(content, int(index)) != int(index):
            raise broken(path, f"two ids for the token {content}")
        (special if token.get("special") else plain).append(content)
    backend = byte_level(vocabulary, merges, cuts(_WAYS[kind]))
    add_tokens(backend, special, plain)
    notes = () if config else ("no tokenizer_config.json: words are cut as GPT-2's",)
    return Stored(backend, folder, {}, notes)


def _vocabulary(path: Path) -> dict[str, int]:
    values = _config(path)
    if not values or not all(type(index) is int for index in values.values()):
        raise broken(path, "not an object of tokens and their ids")
    return values


def _config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return read_object(path, "fetch the file again")


def _merges(path: Path, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    merges = []
    lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line or (number == 1 and line.startswith("#version")):
            continue
        pair = line.split(" ")
        if len(pair) != 2 or "".join(pair) not in vocabulary:
            raise broken(path, f"line {number} merges no two tokens into a third")
        merges.append((pair[0], pair[1]))
    return merges


MAKE = Make(
    "merge lists",
    "vocab.json and merges.txt",
    find=_find,
    claims=lambda path: path.name in {merges for _, merges in _FILES},
    read=_read,
)
