"""Text <-> token ids: a byte-level BPE trained here, or a `tokenizer.json`.

Ordinary text never becomes a special token: ``<|end|>`` typed by a user is seven
characters, not the end of a turn.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from lumina.data.chat_format import ChatFormat
from lumina.data.chat_markers import (
    END_OF_TEXT,
    END_OF_TURN,
    MARKERS,
    SPECIALS,
    TOOL_SPECIALS,
    MarkerFormat,
)
from lumina.data.chat_template import TemplateFormat
from lumina.data.long_conversations import LaidOut
from lumina.data.records import Message
from lumina.data.template_files import VARIABLES, Templates
from lumina.data.text_inside import InsideText
from lumina.data.text_stream import TextStream
from lumina.data.token_bytes import TokenBytes
from lumina.data.tokenizer_backend import (
    add_specials,
    hide_specials,
    ids_of,
    no_text,
    remember_words,
    specials,
    trained_backend,
    without_prefix,
)
from lumina.data.tokenizer_files import read_declared, token_named
from lumina.data.tokenizer_makes.make import read_stored
from lumina.data.tokenizer_writing import hf_config, with_begin
from lumina.errors import LuminaError


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
        kept: what else tokenizer_config.json says; see `tokenizer_files.KEPT`.
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
        unhidden = hide_specials(backend)
        remember_words(backend)
        self.backend = backend
        self._bos = bos
        self._eos = eos
        if before is None:
            before = () if bos is None else (bos,)
        self._before = tuple(before)
        self._ends = frozenset(ends)
        self.notes = list(notes)
        note = f"text can spell special tokens: {' '.join(unhidden)}"
        if unhidden and note not in self.notes:
            self.notes.append(note)
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
        backend = trained_backend(texts, vocab_size, SPECIALS)
        kept = {"pad_token": END_OF_TEXT}
        return cls(backend, bos=END_OF_TEXT, eos=END_OF_TEXT, kept=kept)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Load a vocabulary; see `lumina.data.tokenizer_makes`.

        Args:
            path: a file, the folder (or run) that holds one, or a name.

        Raises:
            LuminaError: E104 no such file, E106 no permission, E101 not a tokenizer,
                E107 the hub cannot be reached.
        """
        stored = read_stored(path)
        found = cls(stored.backend, **vars(read_declared(stored)))
        return found._with_control_tokens()

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
        (folder / "tokenizer.json").write_text(
            with_begin(self.backend, self._before, self.token_id), encoding="utf-8"
        )
        for name, values in (
            ("tokenizer_config.json", self._hf_config()),
            ("generation_config.json", self._generation_config()),
        ):
            text = json.dumps(values, indent=2, ensure_ascii=False)
            (folder / name).write_text(text + "\n", encoding="utf-8")

    def _generation_config(self) -> dict[str, Any]:
        """Where generation begins and stops, and how, as transformers reads it."""
        # Also where texts begin without it: generation without a prompt begins so.
        named = token_named(self._hf_config(), "bos_token")
        pad = token_named(self._kept, "pad_token") or self._eos
        return {
            "pad_token_id": self.token_id(pad),
            **self.generation,
            "bos_token_id": self.backend.token_to_id(named) if named else None,
            "eos_token_id": self.eos_token_id,
        }

    def _hf_config(self) -> dict[str, Any]:
        return hf_config(
            bos=self._bos,
            eos=self._eos,
            before=self._before,
            kept=self._kept,
            templates=self.templates,
            markers=self.has_chat,
            tools=self.has_tools,
        )

    @cached_property
    def vocab_size(self) -> int:
        """One more than the greatest token id."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    @cached_property
    def eos_id(self) -> int:
        """The token that ends a document."""
        return self.token_id(self._eos)

    @cached_property
    def bos_id(self) -> int | None:
        """The token that begins a document; None where documents begin without one."""
        return self.token_id(self._before[0]) if self._before else None

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

    @cached_property
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
                lambda backend: without_prefix(backend, only_first=True),
            )
        return MarkerFormat(self, self.has_tools) if self.has_markers else None

    @property
    def has_chat(self) -> bool:
        """Whether it knows how to write a conversation."""
        return self.chat_format is not None

    @cached_property
    def has_markers(self) -> bool:
        """Whether the vocabulary holds the markers of a conversation, as special ones.

        A marker that text can spell out would let a user speak for the assistant.
        """
        return specials(self.backend).issuperset((*MARKERS.values(), END_OF_TURN))

    @cached_property
    def has_tools(self) -> bool:
        """Whether the vocabulary holds the markers of tools, as special ones."""
        return specials(self.backend).issuperset(TOOL_SPECIALS)

    def with_chat(self, tools: bool = False) -> Tokenizer:
        """This tokenizer, or a larger one with markers when it has no chat format.

        Args:
            tools: the conversations have tools, so their markers are wanted, too.
        """
        if self.templates is not None or (
            self.has_markers and (self.has_tools or not tools)
        ):
            return self
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        wanted = (*MARKERS.values(), END_OF_TURN, *(TOOL_SPECIALS if tools else ()))
        add_specials(backend, wanted)
        grown = backend.get_vocab_size() - self.backend.get_vocab_size()
        notes = [f"added {grown} chat markers to the vocabulary"] if grown else []
        return self._remade(backend, notes=[*self.notes, *notes], templates=None)

    def with_tokens(self, tokens: Sequence[str], *, special: bool) -> Tokenizer:
        """A larger tokenizer that has these tokens, too.

        Args:
            tokens: they get the next ids, in this order.
            special: ordinary text never becomes them; else it does wherever it spells
                them.

        Raises:
            LuminaError: E005 for no tokens, an empty one, one twice, or one that the
                vocabulary has.
        """
        known = self.backend.get_vocab(with_added_tokens=True)
        for place, token in enumerate(tokens):
            if not token or token in known or token in tokens[:place]:
                raise LuminaError(
                    "E005",
                    f"the token {token!r} is empty, named twice, or in the vocabulary",
                    "name tokens that the vocabulary lacks, each once",
                )
        if not tokens:
            raise LuminaError("E005", "no tokens are named", "name at least one")
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        added = [AddedToken(one, special=special, normalized=False) for one in tokens]
        (backend.add_special_tokens if special else backend.add_tokens)(added)
        note = f"added {len(tokens)} tokens to the vocabulary"
        return self._remade(backend, notes=[*self.notes, note])

    def with_templates(self, templates: Templates | None) -> Tokenizer:
        """This tokenizer with other chat templates; None: with Lumina's markers, if
        `with_chat` adds them."""
        backend = tokenizers.Tokenizer.from_str(self.backend.to_str())
        return self._remade(backend, templates=templates)._with_control_tokens()

    def _with_control_tokens(self) -> Tokenizer:
        """This tokenizer, where the chat template's own markers are special tokens.

        As ordinary tokens they would let a user speak for the assistant.
        """
        if not isinstance(self.chat_format, TemplateFormat):
            return self
        spelled = self.chat_format.control_tokens()
        if not spelled:
            return self
        add_specials(self.backend, spelled)
        return self._remade(self.backend)

    def _remade(self, backend: tokenizers.Tokenizer, **changes: Any) -> Tokenizer:
        """A tokenizer with another backend, and else like this one.

        Args:
            backend: of the new tokenizer.
            changes: other arguments of `Tokenizer` that differ.
        """
        same = {
            "bos": self._bos,
            "eos": self._eos,
            "before": self._before,
            "ends": self._ends,
            "notes": self.notes,
            "templates": self.templates,
            "kept": self._kept,
            "generation": self.generation,
        }
        return Tokenizer(backend, **(same | changes))

    def named_specials(self) -> dict[str, str]:
        """The special tokens that a chat template can name, by their names there."""
        named = {"bos_token": self._bos, "eos_token": self._eos}
        for name in VARIABLES:
            token = token_named(self._kept, name)
            if token is not None:
                named.setdefault(name, token)
        return {name: token for name, token in named.items() if token is not None}

    @property
    def named_begin(self) -> int | None:
        """The id of the begin token that its files name, wherever it stands."""
        return None if self._bos is None else self.backend.token_to_id(self._bos)

    def token_id(self, token: str) -> int:
        """The id of a token.

        Raises:
            LuminaError: E102 where the vocabulary does not have it.
        """
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
            raise no_text(text) from None
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of every text; other Python threads run meanwhile."""
        return list(self.encode_each(texts))

    def encode_each(self, texts: Sequence[str]) -> Iterator[list[int]]:
        """`encode_batch`, a few texts at a time: only their ids are held in memory."""
        return ids_of(self.backend, texts)

    def encode_contents(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode_batch` of texts that each stand right behind a special token.

        A tokenizer may put a space before the beginning of a text only, and these
        are no beginnings.
        """
        return list(ids_of(self._inside_text.behind_special, texts))

    def encode_continuation(self, text: str) -> list[int]:
        """Token ids of text that goes on where other text ended.

        They are those that it has in the whole text, if no token lies across the cut:
        nothing that a tokenizer puts before a text comes before it.
        """
        return self._inside_text.encode(text)

    @cached_property
    def _inside_text(self) -> InsideText:
        return InsideText(self.backend)

    def prompt(self, text: str) -> list[int]:
        """The ids to continue from: as a document begins in training."""
        return [*self.begin, *self.encode(text)]

    @property
    def begin(self) -> list[int]:
        """What comes before a document: the begin token, or nothing; rarely several."""
        return list(self._begin)

    @cached_property
    def _begin(self) -> tuple[int, ...]:
        return tuple(self.token_id(token) for token in self._before)

    def without_begin(self, ids: Sequence[int]) -> list[int]:
        """The ids of a text without the tokens that come before every text."""
        begin = self.begin
        same = list(ids[: len(begin)]) == begin
        return list(ids[len(begin) :] if same else ids)

    def decode(self, ids: Iterable[int], *, skip_special: bool = False) -> str:
        """Text of ids; bytes that are no character become U+FFFD."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=skip_special)
        return text

    def spelled_bytes(self, token: int) -> int:
        """UTF-8 bytes of the text that one token spells by itself."""
        known = self._spelled_bytes.get(token)
        if known is None:
            known = self._spelled_bytes[token] = len(self.decode([token]).encode())
        return known

    @cached_property
    def _spelled_bytes(self) -> dict[int, int]:
        """What `spelled_bytes` found, of at most every token."""
        return {}

    def token_bytes(self, token: int) -> bytes | None:
        """The bytes that a token stands for; None where it has none of its own."""
        return self._token_bytes.of(token)

    @cached_property
    def _token_bytes(self) -> TokenBytes:
        return TokenBytes(self.backend)

    def decode_after(
        self, prompt: Sequence[int], ids: Iterable[int], *, cut_off: bool = False
    ) -> str:
        """What `ids` add to the text of `prompt`; see `TextStream`."""
        stream = self.stream(prompt)
        return "".join([*map(stream.push, ids), stream.flush(cut_off=cut_off)])

    def encode_chat(
        self, messages: Sequence[Message], *, loss_on: str = "assistant"
    ) -> tuple[list[int], list[float]]:
        """Ids of a conversation, and which of them the model is taught to say.

        Args:
            messages: the turns, `role` in user, assistant, system.
            loss_on: "assistant" teaches the assistant's words and end markers only,
                "all" teaches everything.

        Returns:
            (ids, mask), of equal length. The mask is False for what bears no loss,
            True for what does, and the weight of a turn that has one.
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
            self.token_id(END_OF_TURN)  # says what is missing
        return self.chat_format or MarkerFormat(self)

    def chat_prompt(
        self, messages: Sequence[Message], said: Sequence[list[int] | None] = ()
    ) -> list[int]:
        """Ids up to where the assistant is to speak; see `ChatFormat.prompt`."""
        return self._format.prompt(messages, said)

    def stream(self, prompt: Sequence[int] = ()) -> TextStream:
        """A decoder for ids that arrive one at a time, after those of `prompt`."""
        return TextStream(self, prompt)
