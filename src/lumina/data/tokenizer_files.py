"""What the files beside a `tokenizer.json` say of its special tokens and templates."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from lumina.data.chat_markers import BODY, END_OF_TEXT, TOOL_BODY
from lumina.data.template_files import DEFAULT, Templates, read_templates
from lumina.data.tokenizer_backend import add_specials, specials
from lumina.data.tokenizer_makes.make import Stored
from lumina.errors import LuminaError
from lumina.json_objects import read_object

_EOS_NAMES = (
    END_OF_TEXT,
    "</s>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|im_end|>",
    "<eos>",
    "[EOS]",
    "[SEP]",
)


# What transformers reads of a tokenizer besides its ids: kept as it was.
KEPT = (
    "unk_token", "pad_token", "sep_token", "cls_token", "mask_token",
    "additional_special_tokens", "extra_special_tokens", "model_max_length",
    "padding_side", "truncation_side", "model_input_names",
)  # fmt: skip


# What generation_config.json says that is not kept: token ids, and where it came from.
_WRITTEN_ANEW = (
    "bos_token_id", "eos_token_id", "transformers_version", "_from_model_config",
)  # fmt: skip


@dataclass(frozen=True)
class Declared:
    """What stands beside a `tokenizer.json`; fields as `Tokenizer` takes them."""

    bos: str | None
    eos: str
    before: tuple[str, ...]
    ends: list[int]
    notes: list[str]
    templates: Templates | None
    kept: dict[str, Any]
    generation: dict[str, Any]


def read_declared(stored: Stored) -> Declared:
    """Find the begin and end tokens, the templates and the rest.

    Args:
        stored: the vocabulary; begin and end tokens become special tokens of it.
    """
    backend, folder = stored.backend, stored.folder
    declared = {**stored.said, **_declared(folder)}
    notes = list(stored.notes)
    ends = list(_end_ids(backend, folder, notes))
    bos = _begin_token(backend, declared, notes)
    before = _before(backend, bos, declared, notes)
    eos = _end_token(backend, declared, ends, notes)
    plain = {token for token in (bos, eos, *before) if token} - specials(backend)
    add_specials(backend, sorted(plain))  # keeps their ids
    templates = read_templates(folder, declared, notes)
    own = "" if templates is None else templates.named.get(DEFAULT, "")
    if BODY in own or TOOL_BODY in own:
        templates = None  # the markers' own, which `save` wrote
    generation = _json(folder / "generation_config.json")
    generation = {n: v for n, v in generation.items() if n not in _WRITTEN_ANEW}
    pad = generation.get("pad_token_id")
    if not isinstance(pad, int) or pad < 0 or backend.id_to_token(pad) is None:
        generation.pop("pad_token_id", None)
    tokens = ("unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
    kept = {n: declared[n] for n in KEPT if declared.get(n) is not None}
    for name in tokens:
        token = token_named(kept, name)
        if name in kept and (token is None or backend.token_to_id(token) is None):
            notes.append(f"{name} {token} is not in the vocabulary: it is left out")
            del kept[name]

    if not declared:  # a lone tokenizer.json: something has to fill up a batch
        kept["pad_token"] = eos
    return Declared(bos, eos, before, ends, notes, templates, kept, generation)


def _declared(folder: Path) -> dict[str, Any]:
    """What the tokenizer's own files say, read as transformers reads them."""
    config = _json(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config |= _json(folder / "special_tokens_map.json")
    return config


def token_named(declared: dict[str, Any], name: str) -> str | None:
    """The special token of this name, or None."""
    value = declared.get(name)
    token = value.get("content") if isinstance(value, dict) else value
    return token if isinstance(token, str) and token else None


def _begin_token(
    backend: tokenizers.Tokenizer, declared: dict[str, Any], notes: list[str]
) -> str | None:
    """The begin token that the files name; never one that only looks like it."""
    if "bos_token" not in declared:
        # tokenizer.json may still say what it puts before a text.
        return next(iter(_put_first(backend)), None)
    bos = token_named(declared, "bos_token")
    if bos is not None and backend.token_to_id(bos) is None:
        notes.append(f"the begin token {bos} is not in the vocabulary: it is left out")
        return None
    return bos


def _before(
    backend: tokenizers.Tokenizer,
    bos: str | None,
    declared: dict[str, Any],
    notes: list[str],
) -> tuple[str, ...]:
    """The tokens before every text: those of transformers' plain call.

    That a begin token is named does not mean that texts begin with it. transformers
    reads it from tokenizer.json, and add_bos_token only where there is no such file.
    """
    if _is_old_own(backend, declared):
        return () if bos is None else (bos,)
    before = _put_first(backend)
    kind = str(declared.get("tokenizer_class")).removesuffix("Fast")
    if kind in _CLASSES_THAT_DECIDE:  # these do not look at tokenizer.json
        before = (bos,) if bos and _CLASSES_THAT_DECIDE[kind] else ()
    asked = declared.get("add_bos_token")
    if isinstance(asked, bool) and bos is not None and asked != bool(before):
        puts = " ".join(before) or "nothing"
        begin = f"with {puts}" if before else "without it"
        source = (
            f"{kind} puts" if kind in _CLASSES_THAT_DECIDE else "tokenizer.json puts"
        )
        notes.append(
            f"add_bos_token is {str(asked).lower()}, but {source} {puts} before a "
            f"text: texts begin {begin}, as in transformers 5"
        )
    return before


_CLASSES_THAT_DECIDE = {"GPTNeoXTokenizer": False, "CodeLlamaTokenizer": True}
"""Classes of transformers that themselves decide whether texts begin with a token."""


def _is_old_own(backend: tokenizers.Tokenizer, declared: dict[str, Any]) -> bool:
    """Whether an earlier version of Lumina wrote the files.

    It wrote tokenizer.json without what comes before a text, and began every text with
    the begin token all the same. Its runs and exports go on so.
    """
    return (
        backend.post_processor is None
        and "add_bos_token" not in declared
        and declared.get("model_max_length") == 10**30
        and declared.get("clean_up_tokenization_spaces") is False
    )


def _put_first(backend: tokenizers.Tokenizer) -> tuple[str, ...]:
    """The special tokens that tokenizer.json puts before a text."""
    processor = json.loads(backend.to_str())["post_processor"] or {}
    before: list[int] = []
    for part in (processor, *processor.get("processors", ())):
        ids: list[int] = []
        for piece in part.get("single", ()):
            if "SpecialToken" not in piece:
                break
            ids += part["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
        if "cls" in part:
            ids = [part["cls"][1]]
        before = [*ids, *before]  # each works on what the one before it made
    names = [backend.id_to_token(index) for index in before]
    if None in names:
        raise LuminaError(
            "E101",
            f"tokenizer.json puts token {before[names.index(None)]} before a text, "
            "which its vocabulary does not have",
            "fetch the tokenizer again",
        )
    return tuple(map(str, names))


def _end_token(
    backend: tokenizers.Tokenizer,
    declared: dict[str, Any],
    ends: Sequence[int],
    notes: list[str],
) -> str:
    """The end token that the files name, or word in `notes` of another one."""
    eos = token_named(declared, "eos_token")
    if eos is not None and backend.token_to_id(eos) is not None:
        return eos
    if eos is not None:
        said = f"the end token {eos} is not in the vocabulary"
    elif "eos_token" in declared:
        said = "the tokenizer's files name no end token (eos_token is null)"
    else:
        said = ""
    if ends:
        token = str(backend.id_to_token(ends[0]))
        if said:
            notes.append(f"{said}: {token}, which the model's files name, is used")
        return token
    said = said or "no file beside tokenizer.json names an end token"
    for name in _EOS_NAMES:
        if backend.token_to_id(name) is not None:
            notes.append(f"{said}: {name} of the vocabulary is used")
            return name
    add_specials(backend, [END_OF_TEXT])
    notes.append(f"{said}: {END_OF_TEXT} was added to the vocabulary")
    return END_OF_TEXT


def _end_ids(
    backend: tokenizers.Tokenizer, folder: Path, notes: list[str]
) -> Iterator[int]:
    """The end tokens that the model's files name, those of `config.json` first."""
    for file in ("config.json", "generation_config.json"):
        named = _json(folder / file).get("eos_token_id")
        for index in named if isinstance(named, list) else [named]:
            if index is None:
                continue
            if not isinstance(index, int) or isinstance(index, bool):
                notes.append(
                    f"the end token {index!r} of {file} is no token id: it is left out"
                )
                continue
            if index >= 0 and backend.id_to_token(index) is not None:
                yield index
            else:
                notes.append(
                    f"the end token {index} of {file} is not in the vocabulary"
                )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    return read_object(path, "fetch or make the tokenizer again")
