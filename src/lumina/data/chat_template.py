"""A model's own chat template: the text it writes, the token ids, what bears loss.

A template is a program that came with a model's files. It runs in a sandbox, and what
it writes is encoded as transformers' `apply_chat_template` encodes it. Where the words
of each turn stand in that text is found by rendering the same conversation with names
in their places; the result is used only if the words put back give the same text.
"""

from __future__ import annotations

import bisect
import datetime
import functools
import hashlib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
import jinja2.nodes
import tokenizers
from jinja2.exceptions import SecurityError

from lumina.data.long_conversations import LaidOut, Span
from lumina.data.records import Message
from lumina.data.template_sandbox import BEGIN, END, MAX_OUTPUT, Sandbox
from lumina.errors import LuminaError

DEFAULT = "default"
MAX_TEMPLATE = 2**18
"""Characters of a template."""

VARIABLES = tuple(
    f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
)
"""Special tokens that a template can name."""

# Around the name that stands for the words of a turn.
_OPEN, _CLOSE = "\ue0f0", "\ue0f1"
_KEY = re.compile(f"{_OPEN}([0-9]+)\\.([0-9]+){_CLOSE}")
_MARKS = re.compile(f"[{BEGIN}{END}]")
_HINT = (
    "correct the template in the model's folder, or remove it: then Lumina's own chat "
    "markers are used"
)


class UnusableTemplateError(LuminaError):
    """A template that is of no use for any conversation: it is not one to leave out."""


def failure(message: str, hint: str = _HINT) -> LuminaError:
    """What a template cannot do."""
    return LuminaError("E108", message, hint)


@dataclass(frozen=True)
class Templates:
    """The chat templates of a model's folder.

    Attributes:
        named: by name; the one for conversations is named "default".
        variables: the special tokens that they can write, by name.
        day: the date that conversations to train on get where a template writes the
            date, as YYYY-MM-DD: a resumed run must get the same ids on another day.
    """

    named: dict[str, str]
    variables: dict[str, str] = field(default_factory=dict)
    day: str = ""

    @property
    def conversation(self) -> str:
        """The template of conversations.

        Raises:
            LuminaError: E108 when there is none among several.
        """
        if DEFAULT not in self.named:
            raise UnusableTemplateError(
                "E108",
                f"none of the chat templates ({', '.join(self.named)}) is named "
                f"{DEFAULT!r}",
                f"name the one for conversations {DEFAULT!r}",
            )
        return self.named[DEFAULT]

    def to_config(self) -> dict[str, Any]:
        """As `tokenizer_config.json` holds them."""
        if list(self.named) == [DEFAULT]:
            written: Any = self.named[DEFAULT]
        else:
            written = [{"name": n, "template": t} for n, t in self.named.items()]
        config = {"chat_template": written}
        if any("strftime_now" in text for text in self.named.values()):
            config["lumina_training_day"] = self.day
        return config


def read_templates(
    folder: Path, declared: dict[str, Any], notes: list[str]
) -> Templates | None:
    """The chat templates in a folder, or None.

    As transformers has it, .jinja files replace all that tokenizer_config.json holds.
    chat_template.json, which only its processors read, is used where nothing else is.

    Args:
        folder: where `chat_template.jinja` and others may be.
        declared: what `tokenizer_config.json` says.
        notes: told of a contradiction.

    Raises:
        LuminaError: E101 or E103 for a file that is no template, E106 permission.
    """
    inside = _from_config(declared.get("chat_template"), folder)
    named = {}
    if (folder / "chat_template.jinja").is_file():
        named[DEFAULT] = _text(folder / "chat_template.jinja")
    for path in sorted(folder.glob("additional_chat_templates/*.jinja")):
        text = _text(path)
        if named.get(path.stem, text) != text:
            notes.append(
                f"additional_chat_templates/{path.name} is another chat template than "
                "chat_template.jinja: it is used, as in transformers"
            )
        named[path.stem] = text
    if named and inside and named != inside:
        notes.append(
            "tokenizer_config.json holds another chat template than the folder's "
            ".jinja files: these are used, as in transformers"
        )
    named = named or inside
    if (folder / "chat_template.json").is_file():
        legacy = _from_json(folder / "chat_template.json")
        if legacy and not named:
            named = legacy
            notes.append(
                "the chat template is that of chat_template.json, which transformers "
                "reads for processors only"
            )
        elif legacy and legacy.get(DEFAULT) != named.get(DEFAULT):
            notes.append(
                "chat_template.json holds another chat template than the folder's "
                "other files: it is not used, as in transformers"
            )
    if not named:
        return None
    values = {name: declared.get(name) for name in VARIABLES}
    variables = {
        name: value.get("content", "") if isinstance(value, dict) else value
        for name, value in values.items()
        if value is not None
    }
    day = declared.get("lumina_training_day")
    if not isinstance(day, str) or not re.fullmatch(r"\d{4}-\d\d-\d\d", day):
        day = datetime.date.today().isoformat()
    return Templates(named, variables, day)


def _from_json(path: Path) -> dict[str, str]:
    try:
        values = json.loads(_text(path))
    except ValueError as error:
        raise _broken(path, f"not JSON: {error}") from None
    return _from_config(
        values.get("chat_template") if isinstance(values, dict) else None, path.parent
    )


def _from_config(value: Any, folder: Path) -> dict[str, str]:
    if value is None:
        return {}
    if isinstance(value, str):
        return {DEFAULT: value}
    if isinstance(value, dict):
        value = [{"name": name, "template": text} for name, text in value.items()]
    found = {}
    for one in value if isinstance(value, list) else [None]:
        name, text = (
            (one.get("name"), one.get("template"))
            if isinstance(one, dict)
            else (None, None)
        )
        if not isinstance(name, str) or not isinstance(text, str):
            raise _broken(folder, "'chat_template' is neither a text nor named texts")
        found[name] = text
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise LuminaError("E103", f"{path}: not UTF-8", "fetch it again") from None
    except PermissionError:
        raise LuminaError(
            "E106", f"{path}: this user may not read it", "chmod +r it"
        ) from None


def _broken(path: Path, what: str) -> LuminaError:
    return LuminaError("E101", f"{path}: {what}", "fetch the model's files again")


class _Program:
    """A template, compiled; renders conversations."""

    def __init__(self, source: str, variables: dict[str, str]) -> None:
        if len(source) > MAX_TEMPLATE:
            raise UnusableTemplateError(
                "E108",
                f"the chat template has {len(source):,} characters, more than the "
                f"{MAX_TEMPLATE:,} that are allowed",
                _HINT,
            )
        self._variables = variables
        self._sandbox = Sandbox()
        try:
            tree, self._compiled = self._sandbox.compiled(source)
            self.looked_for = _looked_for(tree)
        except (jinja2.TemplateError, RecursionError) as error:
            raise UnusableTemplateError(
                "E108", f"the chat template is not valid: {error}", _HINT
            ) from None

    def render(
        self,
        messages: Sequence[tuple[str, str]],
        now: datetime.datetime,
        *,
        ask: bool = False,
        marks: bool = False,
    ) -> str:
        """The text of (role, words) turns.

        Args:
            messages: the turns.
            now: the time it may write.
            ask: with what comes before the assistant's next words.
            marks: with characters around what `{% generation %}` encloses.
        """
        words = sum(len(text) for _, text in messages)
        limit = MAX_OUTPUT + 4 * words
        self._sandbox.begin(len(messages), words)
        pieces: list[str] = []
        size = 0
        try:
            for piece in self._compiled.generate(
                messages=[{"role": r, "content": text} for r, text in messages],
                tools=None,
                documents=None,
                add_generation_prompt=ask,
                strftime_now=now.strftime,
                lumina_marks=marks,
                **self._variables,
            ):
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise SecurityError("it writes without end")
        except SecurityError as error:
            raise UnusableTemplateError(
                "E108", f"the model's chat template was stopped: {error}", _HINT
            ) from None
        except Exception as error:  # a template is a program: it can raise anything
            raise self._told(messages, now, ask, error) from None
        return "".join(pieces)

    def _told(
        self,
        messages: Sequence[tuple[str, str]],
        now: datetime.datetime,
        ask: bool,
        error: Exception,
    ) -> LuminaError:
        """The error, with the role that the template does not take, if it is that."""
        said = str(error) or type(error).__name__
        others = [message for message in messages if message[0] != "system"]
        if 0 < len(others) < len(messages):
            try:
                self.render(others, now, ask=ask)
            except LuminaError:
                pass
            else:
                return failure(
                    f"the model's chat template takes no system turn: {said}",
                    "leave the system turn out, or put its words into the user's turn",
                )
        roles = ", ".join(role for role, _ in messages[:6])
        more = ", ..." if len(messages) > 6 else ""
        return failure(
            f"the model's chat template refuses the turns {roles}{more}: {said}",
            "give turns that the model was made for, or remove the template from its "
            "folder: then Lumina's own chat markers are used",
        )


def _looked_for(tree: jinja2.nodes.Template) -> tuple[str, ...]:
    """Texts that the template looks for in the words of a turn, longest first.

    Words and names are left out: only marks such as ``</think>`` divide a turn.
    """
    found = set()
    places: list[Any] = []
    for compare in tree.find_all(jinja2.nodes.Compare):
        if any(one.op in ("in", "notin") for one in compare.ops):
            places.append(compare.expr)
    for call in tree.find_all(jinja2.nodes.Call):
        if isinstance(call.node, jinja2.nodes.Getattr):
            places += call.args
    for filtered in tree.find_all(jinja2.nodes.Filter):
        places += filtered.args
    for place in places:
        if isinstance(place, jinja2.nodes.Const) and isinstance(place.value, str):
            text = place.value.strip()
            if len(text) > 1 and not text.replace("_", "").isalnum():
                found.add(text)
    return tuple(sorted(found, key=lambda text: (-len(text), text)))


# Where the words of each turn stand.


@dataclass(frozen=True)
class _Turn:
    """The words of one turn, and the form in which a template is tried with them.

    Attributes:
        form: the words with a name for every part between marks, the white space
            around all of them left out.
        parts: what the names stand for.
        lead: white space before, `trail` behind.
    """

    form: str
    parts: tuple[str, ...]
    lead: str
    trail: str

    @property
    def head(self) -> str:
        """What stands before the first name."""
        return self.form.partition(_OPEN)[0]

    @property
    def tail(self) -> str:
        """What stands behind the last name."""
        return self.form.rpartition(_CLOSE)[2]


@dataclass(frozen=True)
class _Place:
    """Words of a turn in a text, by characters.

    Attributes:
        turn: its number.
        key: the number of its first name among all names in the text.
        begin: of the words; `end` behind them.
        core: where what that name stands for begins.
        taught: where what the model has to say begins: not behind `begin`.
        tagged: the end of what `{% generation %}` encloses, if it does.
        asked: the text before `taught` is what the model is asked with in a chat.
    """

    turn: int
    key: int
    begin: int
    core: int
    end: int
    taught: int
    tagged: int | None = None
    asked: bool = False


@dataclass(frozen=True)
class _Text:
    """A rendered conversation; `places` is None where the words were not found."""

    text: str
    places: list[_Place] | None


class _Cut:
    """A rendering cut at its names.

    Attributes:
        texts: before, between and behind the names.
        keys: (turn, part) of each name.
        marks: of each text, (characters before it, whether it begins) of every end of
            a `{% generation %}`.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self.keys = list(
            zip(map(int, pieces[1::3]), map(int, pieces[2::3]), strict=True)
        )
        self.texts = [_MARKS.sub("", text) for text in pieces[::3]]
        self.marks = [
            [
                (m.start() - n, m[0] == BEGIN)
                for n, m in enumerate(_MARKS.finditer(text))
            ]
            for text in pieces[::3]
        ]


def _lost(why: str) -> LuminaError:
    return failure(
        "the words of the turns cannot be found in what the chat template writes: "
        f"{why}",
        "train on everything it writes (--loss-on all), or remove the template from "
        "the model's folder: then Lumina's own chat markers are used",
    )


def _find(turns: Sequence[_Turn], bare: _Cut, full: _Cut, text: str) -> list[_Place]:
    """The places of the words in `text`.

    Args:
        turns: the conversation.
        bare: its rendering with names, without white space around the turns' words.
        full: the same with that white space.
        text: its rendering with its words.
    """
    if bare.keys != full.keys:
        raise _lost("white space decides what is written")
    keys = bare.keys
    kept = [_kept(turns, bare, full, n) for n in range(len(full.texts))]
    written, size = [], 0
    begins, ends = [], []  # of what each name stands for
    ranges: list[tuple[int, int]] = []
    opened: list[int] = []
    for n, between in enumerate(full.texts):
        for at, is_begin in full.marks[n]:
            if is_begin:
                opened.append(size + at)
            elif opened:
                ranges.append((opened.pop(), size + at))
        written.append(between)
        size += len(between)
        if n < len(keys):
            turn, part = keys[n]
            words = turns[turn].parts[part]
            begins.append(size)
            written.append(words)
            size += len(words)
            ends.append(size)
    if "".join(written) != text:
        raise _lost("it changes them, or what it writes depends on them")
    places = []
    first = 0
    for n in range(len(keys)):
        following = n + 1 < len(keys) and keys[n + 1][0] == keys[n][0]
        if following and keys[n + 1][1] > keys[n][1]:
            continue  # another part of the same words
        begin = begins[first] - kept[first][1]
        tag = next((r for r in ranges if r[0] <= begins[first] < r[1]), None)
        places.append(
            _Place(
                turn=keys[n][0],
                key=first,
                begin=begin,
                core=begins[first],
                end=ends[n] + kept[n + 1][0],
                taught=tag[0] if tag else begin,
                tagged=tag[1] if tag else None,
            )
        )
        first = n + 1
    return places


def _kept(turns: Sequence[_Turn], bare: _Cut, full: _Cut, n: int) -> tuple[int, int]:
    """How much at the two ends of text `n` belongs to the words on its two sides."""
    tail = trail = head = lead = ""
    if n > 0:
        turn, part = bare.keys[n - 1]
        if part == len(turns[turn].parts) - 1:
            tail, trail = turns[turn].tail, turns[turn].trail
    if n < len(bare.keys):
        turn, part = bare.keys[n]
        if part == 0:
            head, lead = turns[turn].head, turns[turn].lead
    short, long = bare.texts[n], full.texts[n]
    if not short.startswith(tail):
        tail = trail = ""  # the template wrote it anew
    if not short[len(tail) :].endswith(head):
        head = lead = ""
    middle = short[len(tail) : len(short) - len(head)]
    inside = long[len(tail) : len(long) - len(head)]
    cuts = {
        (a, b)
        for a in range(len(trail) + 1)
        if 0 <= (b := len(inside) - len(middle) - a) <= len(lead)
        and inside == trail[:a] + middle + lead[len(lead) - b :]
    }
    if len(cuts) != 1 or not long.startswith(tail) or not long.endswith(head):
        raise _lost("it changes white space around them")
    [(a, b)] = cuts
    return len(tail) + a, len(head) + b


@dataclass(frozen=True)
class _Tokens:
    """Ids of a text, and the characters that each stands for."""

    ids: list[int]
    begins: list[int]
    ends: list[int]


Chat = tuple[list[int], list[bool]]
"""Ids of a conversation, and which of them bear loss."""


class TemplateFormat:
    """The chat format that a template describes.

    Args:
        templates: of the model's folder.
        backend: its vocabulary.
        without_prefix: gives the vocabulary without what it puts before a text that
            stands behind a special token.
    """

    def __init__(
        self,
        templates: Templates,
        backend: tokenizers.Tokenizer,
        without_prefix: Callable[[tokenizers.Tokenizer], tokenizers.Tokenizer],
    ) -> None:
        self._templates = templates
        state = json.loads(backend.to_str())
        # It only moves the reported places of tokens: no special tokens are asked for.
        state["post_processor"] = None
        plain = json.dumps(state)
        self._whole = tokenizers.Tokenizer.from_str(plain)
        self._whole.encode_special_tokens = False  # the template's are meant
        self._first = tokenizers.Tokenizer.from_str(plain)
        self._first.encode_special_tokens = True
        self._behind = without_prefix(self._first)
        self._behind.encode_special_tokens = True
        added = backend.get_added_tokens_decoder()
        self._special = {i: t.content for i, t in added.items() if t.special}
        unknown = state["model"].get("unk_token")
        self._unknown = state["model"].get("unk_id")
        if unknown is not None:
            self._unknown = backend.token_to_id(unknown)
        self._skeleton = functools.lru_cache(1024)(self._skeleton_of)

    @functools.cached_property
    def _program(self) -> _Program:
        return _Program(self._templates.conversation, self._templates.variables)

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 over everything that decides the ids, besides the vocabulary."""
        text = self._templates.named.get(DEFAULT, "")
        day = self._templates.day if "strftime_now" in text else ""
        state = json.dumps([text, sorted(self._templates.variables.items()), day])
        return hashlib.sha256(state.encode()).hexdigest()

    @functools.cached_property
    def end_ids(self) -> frozenset[int]:
        """Tokens behind an assistant's last words.

        None for a template that has no such token, or that fails: whoever uses that
        for a conversation is told.
        """
        turns: list[Message] = [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b"},
        ]
        try:
            rendered = self._located(turns)
            tokens = self._tokens([rendered])[0]
        except LuminaError:
            return frozenset()
        ends = (self._end(tokens, rendered, p) for p in rendered.places or () if p.turn)
        return frozenset(tokens.ids[end] for end in ends if end is not None)

    def control_tokens(self) -> list[str]:
        """Added tokens that the template writes, but that text can spell as well.

        What the template looks for in words is left out: words are to spell it.
        """
        try:
            names = (
                ("user", f"{_OPEN}0.0{_CLOSE}"),
                ("assistant", f"{_OPEN}1.0{_CLOSE}"),
            )
            text = "".join(self._skeleton(names, self._training_time, True))
            looked_for = self._program.looked_for
        except LuminaError:
            return []
        added = self._whole.get_added_tokens_decoder().values()
        return sorted(
            token.content
            for token in added
            if not token.special
            and token.content in text
            and token.content.strip()
            and not any(token.content in one for one in looked_for)
        )

    def prompt(
        self, messages: Sequence[Message], said: Sequence[list[int] | None] = ()
    ) -> list[int]:
        """Ids of a conversation up to where the assistant is to speak."""
        now = datetime.datetime.now()
        rendered = self._rendered(messages, now, ask=True, needed=False)
        return self._tokens([rendered])[0].ids

    def encode(
        self, conversations: Sequence[Sequence[Message]], *, loss_on: str = "assistant"
    ) -> list[Chat | LuminaError]:
        """Ids and mask of each conversation, or why it has none.

        Args:
            conversations: turns; what a turn itself says of its loss is obeyed.
            loss_on: "assistant" teaches what it says and the end of its turn, "all"
                teaches everything.
        """
        rendered: list[_Text | LuminaError] = []
        useless: UnusableTemplateError | None = None
        for messages in conversations:
            if useless is not None:  # to find that out may have taken a while
                rendered.append(useless)
                continue
            needed = loss_on != "all" or any("train" in m for m in messages)
            try:
                rendered.append(self._located(messages, needed=needed))
            except LuminaError as error:
                rendered.append(error)
                if isinstance(error, UnusableTemplateError):
                    useless = error
        good = [one for one in rendered if isinstance(one, _Text)]
        whole = self._tokens(good)
        tokens = iter([self._as_asked(*both) for both in zip(good, whole, strict=True)])
        done: list[Chat | LuminaError] = []
        for messages, one in zip(conversations, rendered, strict=True):
            if isinstance(one, LuminaError):
                done.append(one)
                continue
            try:
                found = next(tokens)
                done.append((found.ids, self._mask(messages, one, found, loss_on)))
            except LuminaError as error:
                done.append(error)
        return done

    def lay_out(
        self, messages: Sequence[Message], *, loss_on: str = "assistant"
    ) -> LaidOut:
        """`encode` of one conversation, with where its turns stand.

        Raises:
            LuminaError: E108 where the words of every turn are not found once.
        """
        rendered = self._located(messages)
        [tokens] = self._tokens([rendered])
        tokens = self._as_asked(rendered, tokens)
        places = rendered.places or []
        if [place.turn for place in places] != list(range(len(messages))):
            raise failure(
                "the model's chat template does not write the words of every turn "
                "once and in order"
            )
        spans = []
        for place, message in zip(places, messages, strict=True):
            said = message["role"] == "assistant"
            words = self._first_token(tokens, place.taught if said else place.begin)
            spans.append(Span(words, self._behind_place(tokens, rendered, place)))
        mask = self._mask(messages, rendered, tokens, loss_on)
        return LaidOut(tokens.ids, mask, spans)

    # Text.

    @property
    def _training_time(self) -> datetime.datetime:
        return datetime.datetime.fromisoformat(self._templates.day)

    def _located(self, messages: Sequence[Message], *, needed: bool = True) -> _Text:
        return self._rendered(messages, self._training_time, needed=needed)

    def _rendered(
        self,
        messages: Sequence[Message],
        now: datetime.datetime,
        *,
        ask: bool = False,
        needed: bool,
    ) -> _Text:
        """The text, with the places of the words; without, if not `needed` and lost."""
        if not messages:
            raise failure("a conversation without a turn", "give it a turn")
        if "strftime_now" not in self._templates.conversation:
            now = self._training_time  # nothing asks for it
        turns = [(message["role"], message["content"]) for message in messages]
        text = self._program.render(turns, now, ask=ask)
        try:
            return _Text(text, self._places(messages, text, now, ask))
        except LuminaError:
            if needed or any(self._spells_special(m["content"]) for m in messages):
                raise
        return _Text(text, None)

    def _spells_special(self, text: str) -> bool:
        found = self._whole.encode(text, add_special_tokens=False)
        return any(
            self._is_special(index, text[begin:end])
            for index, (begin, end) in zip(found.ids, found.offsets, strict=True)
        )

    def _is_special(self, index: int, text: str) -> bool:
        """Whether a token is special; the unknown token stands for anything."""
        if index not in self._special:
            return False
        return index != self._unknown or text.strip() == self._special[index]

    def _skeleton_of(
        self, forms: tuple[tuple[str, str], ...], now: datetime.datetime, ask: bool
    ) -> tuple[str, ...]:
        """A rendering of names, cut at the names: text, turn, part, text, ..."""
        return tuple(_KEY.split(self._program.render(forms, now, ask=ask, marks=True)))

    def _places(
        self,
        messages: Sequence[Message],
        text: str,
        now: datetime.datetime,
        ask: bool,
    ) -> list[_Place]:
        turns = [self._turn(n, one["content"]) for n, one in enumerate(messages)]
        roles = [message["role"] for message in messages]
        forms = tuple(zip(roles, (turn.form for turn in turns), strict=True))
        bare = full = _Cut(self._skeleton(forms, now, ask))
        if any(turn.lead or turn.trail for turn in turns):
            spaced = (turn.lead + turn.form + turn.trail for turn in turns)
            full = _Cut(
                self._skeleton_of(tuple(zip(roles, spaced, strict=True)), now, ask)
            )
        places = _find(turns, bare, full, text)
        for number, turn in enumerate(turns):
            if turn.form and all(place.turn != number for place in places):
                raise failure(
                    f"the model's chat template leaves out the words of turn "
                    f"{number + 1}, of the {roles[number]}",
                    "leave that turn out, or correct the template",
                )
        if ask:
            return places
        taught = []
        for place in places:
            if roles[place.turn] == "assistant" and place.tagged is None:
                begin = self._taught(place, turns, bare, forms, now)
                if begin is not None:
                    place = replace(place, taught=begin, asked=True)
            taught.append(place)
        return taught

    def _taught(
        self,
        place: _Place,
        turns: Sequence[_Turn],
        bare: _Cut,
        forms: tuple[tuple[str, str], ...],
        now: datetime.datetime,
    ) -> int | None:
        """Where what the model says begins: behind what asks it to speak.

        None where what asks it is not known, so that its words have to do.
        """
        if place.turn == 0:
            return None
        try:
            asked = _Cut(self._skeleton(forms[: place.turn], now, True))
        except LuminaError:
            return None  # these turns alone are none the model is asked with
        before, tail = bare.texts[place.key], asked.texts[-1]
        if asked.keys != bare.keys[: place.key] or not before.startswith(tail):
            return None
        head = turns[place.turn].head if bare.keys[place.key][1] == 0 else ""
        head = head if before.endswith(head) else ""
        written = len(before) - len(head) - len(tail)
        return (
            place.begin - written
            if written >= 0
            else place.core - len(before) + len(tail)
        )

    def _turn(self, number: int, words: str) -> _Turn:
        inner = words.strip()
        lead = words[: len(words) - len(words.lstrip())]
        trail = words[len(lead) + len(inner) :]
        marks = [
            mark
            for mark in self._program.looked_for
            if mark in inner and not self._spells_special(mark)
        ]
        pieces = (
            re.split(f"({'|'.join(map(re.escape, marks))})", inner)
            if marks
            else [inner]
        )
        form = ""
        parts: list[str] = []
        for index, piece in enumerate(pieces):
            core = piece.strip()
            if index % 2 or not core:
                form += piece
                continue
            at = piece.index(core)
            name = f"{_OPEN}{number}.{len(parts)}{_CLOSE}"
            form += piece[:at] + name + piece[at + len(core) :]
            parts.append(core)
        return _Turn(form, tuple(parts), lead, trail)

    # Tokens.

    def _tokens(self, rendered: Sequence[_Text]) -> list[_Tokens]:
        encoded = self._whole.encode_batch(
            [one.text for one in rendered], add_special_tokens=False
        )
        return [
            self._guarded(one, self._spread(found))
            for one, found in zip(rendered, encoded, strict=True)
        ]

    @staticmethod
    def _spread(encoding: tokenizers.Encoding) -> _Tokens:
        offsets = encoding.offsets
        return _Tokens(encoding.ids, [b for b, _ in offsets], [e for _, e in offsets])

    def _guarded(self, rendered: _Text, tokens: _Tokens) -> _Tokens:
        """The tokens, but with special ones only where the template writes them."""
        if rendered.places is None:
            return tokens
        text = shadow = rendered.text
        seen = tokens
        while found := self._spelled(rendered, shadow, seen):
            # What decides is only where the template's own special tokens stand.
            for begin, end in found:
                shadow = shadow[:begin] + "x" * (end - begin) + shadow[end:]
            seen = self._spread(self._whole.encode(shadow, add_special_tokens=False))
        if shadow == text:
            return tokens
        ids: list[int] = []
        begins: list[int] = []
        ends: list[int] = []

        def add(upto: int) -> None:
            start = ends[-1] if ends else 0
            part = self._ordinary(text, start, upto)
            for index, begin, end in zip(part.ids, part.begins, part.ends, strict=True):
                piece = text[begin:end]
                if self._is_special(index, piece):
                    raise failure(
                        f"the vocabulary makes ordinary text {piece!r} a special token",
                        "remove that text from the conversation",
                    )
            ids.extend(part.ids)
            begins.extend(part.begins)
            ends.extend(part.ends)

        for index, begin, end in zip(seen.ids, seen.begins, seen.ends, strict=True):
            if self._is_special(index, shadow[begin:end]):
                if begin > (ends[-1] if ends else 0):
                    add(begin)
                ids.append(index)
                begins.append(begin)
                ends.append(end)
        if len(text) > (ends[-1] if ends else 0):
            add(len(text))
        return _Tokens(ids, begins, ends)

    def _as_asked(self, rendered: _Text, tokens: _Tokens) -> _Tokens:
        r"""The tokens, divided where the model is asked to speak.

        Some vocabularies encode white space at the end of a text as one token, and as
        several where a word follows: GPT-2's do so with the two line ends of
        ``assistant\n\n``. An answer has to be trained behind the ids of the prompt
        that a chat will give, which ends there.
        """
        for place in reversed(rendered.places or []):
            if place.asked:
                tokens = self._divided(rendered.text, tokens, place.taught)
        return tokens

    def _divided(self, text: str, tokens: _Tokens, at: int) -> _Tokens:
        """The tokens with those around character `at` made of the text on each side."""

        def special(n: int) -> bool:
            piece = text[tokens.begins[n] : tokens.ends[n]]
            return self._is_special(tokens.ids[n], piece)

        first = last = bisect.bisect_left(tokens.begins, at)
        if first and special(first - 1) and tokens.ends[first - 1] >= at:
            return tokens
        while first and not special(first - 1):
            first -= 1
        while last < len(tokens.ids) and not special(last):
            last += 1
        start = tokens.ends[first - 1] if first else 0
        stop = tokens.begins[last] if last < len(tokens.ids) else len(text)
        asks = self._ordinary(text, start, at)
        if tokens.ids[first : first + len(asks.ids)] == asks.ids and (
            first + len(asks.ids) == len(tokens.ids)
            or tokens.begins[first + len(asks.ids)] >= at
        ):
            return tokens
        says = self._ordinary(text, at, stop)
        return _Tokens(
            [*tokens.ids[:first], *asks.ids, *says.ids, *tokens.ids[last:]],
            [*tokens.begins[:first], *asks.begins, *says.begins, *tokens.begins[last:]],
            [*tokens.ends[:first], *asks.ends, *says.ends, *tokens.ends[last:]],
        )

    def _ordinary(self, text: str, start: int, stop: int) -> _Tokens:
        """Tokens of text that holds no special token, as it stands in the whole."""
        backend = self._behind if start else self._first
        part = self._spread(backend.encode(text[start:stop], add_special_tokens=False))
        return _Tokens(
            part.ids,
            [start + begin for begin in part.begins],
            [start + end for end in part.ends],
        )

    def _spelled(
        self, rendered: _Text, text: str, tokens: _Tokens
    ) -> list[tuple[int, int]]:
        """Characters of words that special tokens were made of."""
        found = []
        places = sorted((p.begin, p.end) for p in rendered.places or ())
        for index, begin, end in zip(
            tokens.ids, tokens.begins, tokens.ends, strict=True
        ):
            if not self._is_special(index, text[begin:end]):
                continue
            # Some special tokens take the white space beside them.
            piece = text[begin:end]
            begin += len(piece) - len(piece.lstrip())
            end = begin + len(piece.strip())
            at = bisect.bisect_left(places, (begin + 1, -1)) - 1
            for one in places[max(at, 0) : at + 2]:
                low, high = max(begin, one[0]), min(end, one[1])
                if low < high:
                    found.append((low, high))
        return found

    def _end(self, tokens: _Tokens, rendered: _Text, place: _Place) -> int | None:
        """Which token ends a turn: the special one right behind its words."""
        text = rendered.text
        core_end = place.begin + len(text[place.begin : place.end].rstrip())
        following = [p.begin for p in rendered.places or () if p.begin >= place.end]
        limit = min(following, default=len(text))
        at = bisect.bisect_left(tokens.begins, core_end)
        for n in range(at, len(tokens.ids)):
            begin = tokens.begins[n]
            if begin >= limit or text[place.end : begin].strip():
                return None
            if self._is_special(tokens.ids[n], text[begin : tokens.ends[n]]):
                return n
        return None

    def _mask(
        self,
        messages: Sequence[Message],
        rendered: _Text,
        tokens: _Tokens,
        loss_on: str,
    ) -> list[bool]:
        everything = loss_on == "all"
        mask = [everything] * len(tokens.ids)
        places = rendered.places or []
        counts = [sum(p.turn == n for p in places) for n in range(len(messages))]
        done = 0  # tokens of the turns before
        for place in places:
            message = messages[place.turn]
            assistant = message["role"] == "assistant"
            own = message.get("train")
            taught = (everything or assistant) if own is None else own
            if everything and taught:
                done = self._behind_place(tokens, rendered, place)
                continue
            behind = self._behind_place(tokens, rendered, place)
            if everything:
                mask[done:behind] = [False] * (behind - done)
            elif taught:
                if counts[place.turn] != 1:
                    raise _lost(f"it writes turn {place.turn + 1} more than once")
                if assistant and self._end(tokens, rendered, place) is None:
                    raise failure(
                        "the model's chat template writes no special token behind the "
                        f"assistant's words of turn {place.turn + 1}, so the end of "
                        "an answer could not be learnt",
                    )
                begin = place.taught if assistant else place.begin
                first = self._first_token(tokens, begin)
                mask[first:behind] = [True] * (behind - first)
            done = behind
        for number, message in enumerate(messages):
            taught = message.get("train", message["role"] == "assistant")
            if not everything and taught and not counts[number]:
                raise _lost(f"turn {number + 1} has none")
        return mask

    @staticmethod
    def _first_token(tokens: _Tokens, begin: int) -> int:
        """The token that holds the character at `begin`."""
        first = bisect.bisect_left(tokens.begins, begin)
        while first > 0 and tokens.ends[first - 1] > begin:
            first -= 1
        return first

    def _behind_place(self, tokens: _Tokens, rendered: _Text, place: _Place) -> int:
        """The number of tokens up to the end of a turn."""
        stop = max(place.end, place.tagged or 0)
        last = bisect.bisect_left(tokens.begins, stop)
        end = self._end(tokens, rendered, place)
        return last if end is None else max(last, end + 1)
