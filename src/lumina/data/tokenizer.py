"""Text <-> token ids: a byte-level BPE trained here, or a `tokenizer.json`.

Ordinary text never becomes a special token: ``<|end|>`` typed by a user is seven
characters, not the end of a turn.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, trainers

from lumina.data.chat_template import (
    DEFAULT,
    Chat,
    TemplateFormat,
    Templates,
    read_templates,
)
from lumina.data.files import no_permission
from lumina.data.long_conversations import LaidOut, Span
from lumina.data.records import Message
from lumina.errors import LuminaError

END_OF_TEXT = "<|endoftext|>"
MARKERS: dict[str, str] = {
    "system": "<|system|>",
    "user": "<|user|>",
    "assistant": "<|assistant|>",
}
END_OF_TURN = "<|end|>"
SPECIALS = (END_OF_TEXT, *MARKERS.values(), END_OF_TURN)

_BODY = "{{- '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}"

CHAT_TEMPLATE = (
    "{{- bos_token }}"
    "{%- for message in messages %}"
    f"{_BODY}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
"""What `Tokenizer.encode_chat` does, for programs that read templates."""

# GPT-4's way to cut text into words, with numbers cut into at most two digits:
# small vocabularies have no room for a thousand numbers.
_WORDS = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
)

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
_KEPT = (
    "unk_token", "pad_token", "sep_token", "cls_token", "mask_token",
    "additional_special_tokens", "extra_special_tokens", "model_max_length",
    "padding_side", "truncation_side", "model_input_names",
)  # fmt: skip


# What generation_config.json says that is not kept: token ids, and where it came from.
_WRITTEN_ANEW = (
    "bos_token_id", "eos_token_id", "transformers_version", "_from_model_config",
)  # fmt: skip


class ChatFormat(Protocol):
    """How a conversation becomes ids: by a model's template, or Lumina's markers."""

    @property
    def end_ids(self) -> frozenset[int]:
        """Tokens that end what the assistant says."""

    @property
    def fingerprint(self) -> str:
        """Names what decides the ids besides the vocabulary; empty for the markers."""

    def encode(
        self, conversations: Sequence[Sequence[Message]], *, loss_on: str = "assistant"
    ) -> Sequence[Chat | LuminaError]:
        """(ids, mask) of each conversation, or why it has none."""

    def lay_out(
        self, messages: Sequence[Message], *, loss_on: str = "assistant"
    ) -> LaidOut:
        """`encode` of one conversation, with where its turns stand.

        Raises:
            LuminaError: E108 where a template does not let them be found.
        """

    def prompt(
        self, messages: Sequence[Message], said: Sequence[list[int] | None] = ()
    ) -> list[int]:
        """Ids up to where the assistant is to speak.

        Args:
            messages: the turns.
            said: the ids of each turn's words where they were decided before; a format
                that writes history anew does not look at them.
        """


class Tokenizer:
    """Encodes and decodes; knows its special tokens and its chat format.

    Attributes:
        notes: what was added or assumed when it was loaded, in plain words.
        generation: how the model's generation_config.json wants tokens to be chosen.

    Args:
        backend: text to ids; what it puts around a text of its own is taken away.
        bos: the begin token that its files name; None where they name none.
        eos: the token that ends a document.
        before: the tokens before texts and conversations; None: `bos`, if there is one.
        ends: ids that end an answer, besides that of `eos`.
        notes: the beginning of `notes`.
        templates: a model's own chat templates.
        kept: what else tokenizer_config.json says; see `_KEPT`.
        generation: what generation_config.json says; the ids in it are written anew.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        *,
        bos: str | None = None,
        eos: str = END_OF_TEXT,
        before: Sequence[str] | None = None,
        ends: Iterable[int] = (),
        notes: Iterable[str] = (),
        templates: Templates | None = None,
        kept: dict[str, Any] | None = None,
        generation: dict[str, Any] | None = None,
    ) -> None:
        backend.no_truncation()
        backend.no_padding()
        # What it adds to a text is never used here; `save` writes it anew.
        backend.post_processor = None
        backend.encode_special_tokens = True  # special text stays text
        self.backend = backend
        self._bos = bos
        self._eos = eos
        if before is None:
            before = () if bos is None else (bos,)
        self._before = tuple(before)
        self._ends = frozenset(ends)
        self.notes = list(notes)
        self.templates = templates
        self._kept = kept or {}
        self.generation = generation or {}

    @classmethod
    def train(cls, texts: Iterable[str], vocab_size: int) -> Tokenizer:
        """Train a byte-level BPE; the same texts always give the same tokenizer.

        Args:
            texts: the sample to learn merges from.
            vocab_size: the most tokens, with 256 bytes and the special tokens; fewer
                when the sample has no more pairs that occur twice.
        """
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_WORDS), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=list(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(texts, trainer)
        kept = {"pad_token": END_OF_TEXT}
        return cls(backend, bos=END_OF_TEXT, eos=END_OF_TEXT, kept=kept)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Load a `tokenizer.json`, or the folder (or run) that holds one.

        Raises:
            LuminaError: E104 no such file, E106 no permission, E101 not a tokenizer.
        """
        file = _tokenizer_file(Path(path).expanduser())
        try:
            text = file.read_text(encoding="utf-8")
        except PermissionError:
            raise no_permission(file) from None
        except UnicodeDecodeError:
            raise LuminaError(
                "E103", f"{file}: not UTF-8", "fetch or make the tokenizer again"
            ) from None
        try:
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises bare Exceptions
            raise LuminaError(
                "E101",
                f"{file}: not a tokenizer: {error}",
                "give a tokenizer.json as the tokenizers library writes it",
            ) from None
        return _with_specials(cls, backend, file.parent)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write three files into `folder`.

        They are `tokenizer.json`, `tokenizer_config.json`, and `generation_config.json`
        with the tokens that end an answer. transformers'
        ``AutoTokenizer.from_pretrained(folder)`` reads them: called with a text it
        gives the ids of `prompt`, and its chat template, where chat markers exist,
        those of `encode_chat`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(self._with_begin(), encoding="utf-8")
        for name, values in (
            ("tokenizer_config.json", self._hf_config()),
            ("generation_config.json", self._generation_config()),
        ):
            text = json.dumps(values, indent=2, ensure_ascii=False)
            (folder / name).write_text(text + "\n", encoding="utf-8")

    def _with_begin(self) -> str:
        """`tokenizer.json`, which puts the begin tokens before a text."""
        if not self._before:
            return self.backend.to_str(pretty=True)
        state = json.loads(self.backend.to_str())
        begin = [
            [{"SpecialToken": {"id": token, "type_id": n}} for token in self._before]
            for n in (0, 1)
        ]
        text = [{"Sequence": {"id": "AB"[n], "type_id": n}} for n in (0, 1)]
        state["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [*begin[0], text[0]],
            "pair": [*begin[0], text[0], *begin[1], text[1]],
            "special_tokens": {
                token: {"id": token, "ids": [self._id(token)], "tokens": [token]}
                for token in self._before
            },
        }
        backend = tokenizers.Tokenizer.from_str(json.dumps(state))
        written: str = backend.to_str(pretty=True)
        return written

    def _generation_config(self) -> dict[str, Any]:
        """Where generation begins and stops, and how, as transformers reads it."""
        # Also where texts begin without it: generation without a prompt begins so.
        named = _token(self._hf_config(), "bos_token")
        return {
            "pad_token_id": self._id(_token(self._kept, "pad_token") or self._eos),
            **self.generation,
            "bos_token_id": self.backend.token_to_id(named) if named else None,
            "eos_token_id": self.eos_token_id,
        }

    def _hf_config(self) -> dict[str, Any]:
        config: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self._bos,
            "eos_token": self._eos,
            "pad_token": None,
            "add_bos_token": bool(self._before),
            "clean_up_tokenization_spaces": False,
            "model_max_length": 10**30,
        }
        config |= self._kept
        if self.templates is not None:
            # What its template can write is what its own files name.
            named = {"bos_token": None, "pad_token": None, **self.templates.variables}
            config |= {n: self._kept.get(n, token) for n, token in named.items()}
            config |= self.templates.to_config()
        elif self.has_chat:
            template = CHAT_TEMPLATE
            if self._before != (self._bos,):
                written = json.dumps("".join(self._before), ensure_ascii=False)
                first = f"{{{{- {written} }}}}" if self._before else ""
                template = first + template.removeprefix("{{- bos_token }}")
            config["chat_template"] = template
        return config

    @cached_property
    def vocab_size(self) -> int:
        """One more than the greatest token id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def eos_id(self) -> int:
        """The token that ends a document."""
        return self._id(self._eos)

    @cached_property
    def bos_id(self) -> int | None:
        """The token that begins a document; None where documents begin without one."""
        return self._id(self._before[0]) if self._before else None

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Tokens at which an answer is over."""
        ends = {self.eos_id, *self._ends}
        if self.chat_format is not None:
            ends |= self.chat_format.end_ids
        return frozenset(ends)

    @property
    def eos_token_id(self) -> int | list[int]:
        """`stop_ids` as transformers writes them: `eos_id`, first if there are more."""
        more = sorted(self.stop_ids - {self.eos_id})
        return [self.eos_id, *more] if more else self.eos_id

    @property
    def unknown_id(self) -> int | None:
        """The token of characters that no other token spells; None: there is none."""
        model = json.loads(self.backend.to_str())["model"]
        if model.get("unk_id") is not None:
            return int(model["unk_id"])
        name = model.get("unk_token")
        return None if name is None else self.backend.token_to_id(name)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over everything that decides the ids."""
        before: Any = list(self._before)
        if len(before) < 2:
            before = before[0] if before else None
        state = json.dumps([self.backend.to_str(), before, self._eos])
        return hashlib.sha256(state.encode()).hexdigest()

    @cached_property
    def chat_format(self) -> ChatFormat | None:
        """The model's own template, or Lumina's markers; None without either."""
        if self.templates is not None:
            return TemplateFormat(
                self.templates,
                self.backend,
                lambda backend: _without_prefix(backend, only_first=True),
            )
        return _Markers(self) if self.has_markers else None

    @property
    def has_chat(self) -> bool:
        """Whether it knows how to write a conversation."""
        return self.chat_format is not None

    @cached_property
    def has_markers(self) -> bool:
        """Whether the vocabulary holds the markers of a conversation, as special ones.

        A marker that text can spell out would let a user speak for the assistant.
        """
        return _specials(self.backend).issuperset((*MARKERS.values(), END_OF_TURN))

    def with_chat(self) -> Tokenizer:
        """This tokenizer, or a larger one with markers when it has no chat format."""
        if self.has_chat:
            return self
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        _add_specials(backend, (*MARKERS.values(), END_OF_TURN))
        grown = backend.get_vocab_size() - self.backend.get_vocab_size()
        notes = [f"added {grown} chat markers to the vocabulary"] if grown else []
        return Tokenizer(
            backend,
            bos=self._bos,
            eos=self._eos,
            before=self._before,
            ends=self._ends,
            notes=[*self.notes, *notes],
            kept=self._kept,
            generation=self.generation,
        )

    def _id(self, token: str) -> int:
        index = self.backend.token_to_id(token)
        if index is None:
            raise LuminaError(
                "E102",
                f"the tokenizer has no token {token}",
                "use a tokenizer with chat markers, as training on conversations makes",
            )
        return int(index)

    def encode(self, text: str) -> list[int]:
        """Token ids of ordinary text, without a begin or end token.

        Raises:
            LuminaError: E005 for what is no text, E103 for one that is not Unicode.
        """
        try:
            ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        except TypeError:
            raise _no_text(text) from None
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text; other Python threads run meanwhile."""
        encodings = self.backend.encode_batch_fast(
            list(texts), add_special_tokens=False
        )
        return [encoding.ids for encoding in encodings]

    def encode_contents(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_batch` of texts that each stand right behind a special token.

        A tokenizer may put a space before the beginning of a text only, and these
        are no beginnings.
        """
        encodings = self._behind_special.encode_batch_fast(
            list(texts), add_special_tokens=False
        )
        return [encoding.ids for encoding in encodings]

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of text that goes on where other text ended.

        They are those that it has in the whole text, if no token lies across the cut:
        nothing that a tokenizer puts before a text comes before it.
        """
        if self._within is self.backend:
            return self.encode(text)
        # Behind an added token, which text itself can spell, a prefix comes again.
        rest = self._behind_special.encode(text, add_special_tokens=False)
        added = self._spelled_added
        at = next((n for n, i in enumerate(rest.ids) if i in added), len(rest.ids))
        if at < len(rest.ids):
            text = text[: rest.offsets[at][0]]
        first: list[int] = self._within.encode(text, add_special_tokens=False).ids
        return [*first, *rest.ids[at:]]

    @cached_property
    def _behind_special(self) -> tokenizers.Tokenizer:
        return _without_prefix(self.backend, only_first=True)

    @cached_property
    def _within(self) -> tokenizers.Tokenizer:
        return _without_prefix(self.backend, only_first=False)

    @cached_property
    def _spelled_added(self) -> frozenset[int]:
        """Ids of added tokens that text can spell: they are not special."""
        added = self.backend.get_added_tokens_decoder().items()
        return frozenset(index for index, token in added if not token.special)

    def prompt(self, text: str) -> list[int]:
        """The ids to continue from: as a document begins in training."""
        return [*self.begin, *self.encode(text)]

    @property
    def begin(self) -> list[int]:
        """What comes before a document: the begin token, or nothing; rarely several."""
        return [self._id(token) for token in self._before]

    def without_begin(self, ids: Sequence[int]) -> list[int]:
        """The ids of a text without the tokens that come before every text."""
        begin = self.begin
        same = list(ids[: len(begin)]) == begin
        return list(ids[len(begin) :] if same else ids)

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of ids; bytes that are no character become U+FFFD."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def decode_after(self, prompt: Sequence[int], ids: Iterable[int]) -> str:
        """What `ids` add to the text of `prompt`; see `TextStream`."""
        stream = self.stream(prompt)
        return "".join([*map(stream.push, ids), stream.flush()])

    def encode_chat(
        self, messages: Sequence[Message], *, loss_on: str = "assistant"
    ) -> tuple[list[int], list[bool]]:
        """Ids of a conversation, and which of them the model is taught to say.

        Args:
            messages: the turns, `role` in user, assistant, system.
            loss_on: "assistant" teaches the assistant's words and end markers only,
                "all" teaches everything.

        Returns:
            (ids, mask), of equal length.
        """
        [chat] = self._format.encode([messages], loss_on=loss_on)
        if isinstance(chat, LuminaError):
            raise chat
        return chat

    def lay_out(
        self, messages: Sequence[Message], *, loss_on: str = "assistant"
    ) -> LaidOut:
        """`encode_chat`, with where each turn stands; see `ChatFormat.lay_out`."""
        return self._format.lay_out(messages, loss_on=loss_on)

    @property
    def _format(self) -> ChatFormat:
        if self.chat_format is None:
            self._id(END_OF_TURN)  # says what is missing
        return self.chat_format or _Markers(self)

    def join_chat(
        self,
        roles: Sequence[str],
        contents: Sequence[list[int]],
        *,
        loss_on: str = "assistant",
        trained: Sequence[bool | None] | None = None,
    ) -> tuple[list[int], list[bool]]:
        """`encode_chat` for turns whose contents are ids, of `encode_contents`.

        Args:
            roles: of each turn.
            contents: token ids of each turn.
            loss_on: as for `encode_chat`.
            trained: what a turn itself says of its loss; None leaves it to `loss_on`.
        """
        end = self._id(END_OF_TURN)
        everything = loss_on == "all"
        ids = self.begin
        mask = [everything] * len(ids)
        said = trained or [None] * len(roles)
        for role, content, own in zip(roles, contents, said, strict=True):
            ids += [self._id(MARKERS[role]), *content, end]
            taught = everything or role == "assistant" if own is None else own
            mask += [everything and own is not False, *([taught] * (len(content) + 1))]
        return ids, mask

    def chat_prompt(
        self, messages: Sequence[Message], said: Sequence[list[int] | None] = ()
    ) -> list[int]:
        """Ids up to where the assistant is to speak; see `ChatFormat.prompt`."""
        return self._format.prompt(messages, said)

    def stream(self, prompt: Sequence[int] = ()) -> TextStream:
        """A decoder for ids that arrive one at a time, after those of `prompt`."""
        return TextStream(self, prompt)


class _Markers:
    """Lumina's own chat format; see `CHAT_TEMPLATE`."""

    fingerprint = ""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        # A long conversation is laid out in parts, whose turns are the same ones.
        self._words = lru_cache(16)(
            lambda text: self._tokenizer.encode_contents([text])[0]
        )

    @property
    def end_ids(self) -> frozenset[int]:
        return frozenset({self._tokenizer._id(END_OF_TURN)})

    def encode(
        self, conversations: Sequence[Sequence[Message]], *, loss_on: str = "assistant"
    ) -> list[Chat | LuminaError]:
        words = [message["content"] for turns in conversations for message in turns]
        ids = iter(self._tokenizer.encode_contents(words))
        return [
            self._tokenizer.join_chat(
                [message["role"] for message in turns],
                [next(ids) for _ in turns],
                loss_on=loss_on,
                trained=[message.get("train") for message in turns],
            )
            for turns in conversations
        ]

    def lay_out(
        self, messages: Sequence[Message], *, loss_on: str = "assistant"
    ) -> LaidOut:
        words = [self._words(message["content"]) for message in messages]
        ids, mask = self._tokenizer.join_chat(
            [message["role"] for message in messages],
            words,
            loss_on=loss_on,
            trained=[message.get("train") for message in messages],
        )
        spans = []
        end = len(self._tokenizer.begin)
        for content in words:  # between its marker and the end of its turn
            spans.append(Span(end + 1, end + len(content) + 2))
            end = spans[-1].end
        return LaidOut(ids, mask, spans)

    def prompt(
        self, messages: Sequence[Message], said: Sequence[list[int] | None] = ()
    ) -> list[int]:
        known = said or [None] * len(messages)
        words = self._tokenizer.encode_contents([m["content"] for m in messages])
        contents = [w if k is None else k for k, w in zip(known, words, strict=True)]
        # An empty answer, without the token that would end it.
        roles = [message["role"] for message in messages]
        ids, _ = self._tokenizer.join_chat([*roles, "assistant"], [*contents, []])
        return ids[:-1]


class TextStream:
    """Decodes ids as they come and never gives out half a character.

    The pieces, with `flush` at the end, join to what the ids add to the text of the
    prompt: `decode` of both, without `decode` of the prompt. Many decoders remove the
    space before a first token, so ids decoded without the prompt would lose theirs.

    Args:
        tokenizer: what decodes.
        prompt: the ids before the first. The begin token is no text: after it alone,
            the ids are the beginning of a text.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # Of the last text given out (at first, the prompt's), and what is pending.
        self._ids = tokenizer.without_begin(prompt)
        self._given = len(self._ids)  # how many of them were given out

    def push(self, token: int) -> str:
        """The text that became certain with `token`; often empty, never half."""
        self._ids.append(token)
        return self._take(force=False)

    def flush(self) -> str:
        """What is left at the end; an unfinished character becomes U+FFFD."""
        return self._take(force=True)

    def _take(self, force: bool) -> str:
        # Decoded with the tokens before, since some decoders treat a first token
        # differently; only what comes after them is new.
        if self._given == len(self._ids):
            return ""
        decode = self._tokenizer.decode
        before = decode(self._ids[: self._given])
        text = decode(self._ids)
        if text.endswith("\ufffd") and not force:
            return ""
        self._ids = self._ids[self._given :]
        self._given = len(self._ids)
        return text[len(before) :]


def _tokenizer_file(path: Path) -> Path:
    """The tokenizer.json at, in, or in the `tokenizer` folder of, `path`."""
    choices = [path, path / "tokenizer.json", path / "tokenizer" / "tokenizer.json"]
    try:
        for choice in choices:
            if choice.is_file():
                return choice
        exists = path.exists()
    except PermissionError:
        raise no_permission(path) from None
    if exists:
        raise LuminaError(
            "E104", f"{path}: no tokenizer.json in this folder", "name its folder"
        )
    raise LuminaError(
        "E104",
        f"{path}: there is no tokenizer at this path",
        "give a tokenizer.json or the folder that holds it; names are not downloaded",
    )


def _with_specials(
    cls: type[Tokenizer], backend: tokenizers.Tokenizer, folder: Path
) -> Tokenizer:
    """Find the begin and end tokens of a loaded vocabulary."""
    declared = _declared(folder)
    notes: list[str] = []
    ends = list(_end_ids(backend, folder, notes))
    bos = _begin_token(backend, declared, notes)
    before = _before(backend, bos, declared, notes)
    eos = _end_token(backend, declared, ends, notes)
    plain = {token for token in (bos, eos, *before) if token} - _specials(backend)
    _add_specials(backend, sorted(plain))  # keeps their ids
    templates = read_templates(folder, declared, notes)
    if templates is not None and _BODY in templates.named.get(DEFAULT, ""):
        templates = None  # the markers' own, which `save` wrote
    generation = _json(folder / "generation_config.json")
    generation = {n: v for n, v in generation.items() if n not in _WRITTEN_ANEW}
    pad = generation.get("pad_token_id")
    if not isinstance(pad, int) or pad < 0 or backend.id_to_token(pad) is None:
        generation.pop("pad_token_id", None)
    tokens = ("unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
    kept = {n: declared[n] for n in _KEPT if declared.get(n) is not None}
    for name in tokens:
        token = _token(kept, name)
        if name in kept and (token is None or backend.token_to_id(token) is None):
            notes.append(f"{name} {token} is not in the vocabulary: it is left out")
            del kept[name]

    if not declared:  # a lone tokenizer.json: something has to fill up a batch
        kept["pad_token"] = eos

    def made() -> Tokenizer:
        return cls(
            backend,
            bos=bos,
            eos=eos,
            before=before,
            ends=ends,
            notes=notes,
            templates=templates,
            kept=kept,
            generation=generation,
        )

    first_made = made()
    if isinstance(first_made.chat_format, TemplateFormat):
        spelled = first_made.chat_format.control_tokens()
        if spelled:  # a user could speak for the assistant
            _add_specials(backend, spelled)
            return made()
    return first_made


def _declared(folder: Path) -> dict[str, Any]:
    """What the tokenizer's own files say, read as transformers reads them."""
    config = _json(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config:
        config |= _json(folder / "special_tokens_map.json")
    return config


def _token(declared: dict[str, Any], name: str) -> str | None:
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
    bos = _token(declared, "bos_token")
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
    eos = _token(declared, "eos_token")
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
    _add_specials(backend, [END_OF_TEXT])
    notes.append(f"{said}: {END_OF_TEXT} was added to the vocabulary")
    return END_OF_TEXT


def _end_ids(
    backend: tokenizers.Tokenizer, folder: Path, notes: list[str]
) -> Iterator[int]:
    """The end tokens that the model's files name, those of `config.json` first."""
    for file in ("config.json", "generation_config.json"):
        named = _json(folder / file).get("eos_token_id")
        for index in named if isinstance(named, list) else [named]:
            if not isinstance(index, int):
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
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LuminaError(
            "E101", f"{path}: not JSON: {error}", "fetch or make the tokenizer again"
        ) from None
    return values if isinstance(values, dict) else {}


def _without_prefix(
    backend: tokenizers.Tokenizer, *, only_first: bool
) -> tokenizers.Tokenizer:
    """The tokenizer without what it puts before a text; itself, if that is nothing.

    Args:
        backend: stays as it is.
        only_first: keep what comes behind every special token too, not only at the
            beginning of the whole text.
    """

    def changed(part: Any) -> Any:
        if isinstance(part, list):
            return [changed(one) for one in part]
        if not isinstance(part, dict):
            return part
        part = {name: changed(value) for name, value in part.items()}
        kind = part.get("type")
        if kind == "Metaspace" and part["prepend_scheme"] == "first":
            return {**part, "prepend_scheme": "never"}
        if only_first:
            return part
        if kind == "Metaspace":
            return {**part, "prepend_scheme": "never"}
        if kind == "ByteLevel":
            return {**part, "add_prefix_space": False}
        if kind == "Strip":
            return {**part, "strip_left": False}
        if kind == "Prepend":
            return {"type": "Sequence", "normalizers": []}
        return part

    state = json.loads(backend.to_str())
    places = ("normalizer", "pre_tokenizer")
    new = {**state, **{place: changed(state[place]) for place in places}}
    if new == state:
        return backend
    copy = tokenizers.Tokenizer.from_str(json.dumps(new))
    copy.encode_special_tokens = True  # special text stays text
    return copy


def _specials(backend: tokenizers.Tokenizer) -> set[str]:
    """Tokens that ordinary text never becomes."""
    added = backend.get_added_tokens_decoder().values()
    return {token.content for token in added if token.special}


def _add_specials(backend: tokenizers.Tokenizer, names: Sequence[str]) -> None:
    backend.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in names]
    )


def _no_text(value: object) -> LuminaError:
    """Why the backend takes it for no text."""
    if isinstance(value, str):
        return LuminaError(
            "E103",
            "the text holds half a surrogate pair, which is not Unicode",
            "decode its bytes as UTF-8, and JSON's escaped characters as whole pairs",
        )
    return LuminaError(
        "E005",
        f"{type(value).__name__} is given where a text is expected",
        "give a str",
    )
