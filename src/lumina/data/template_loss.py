"""Which tokens of a rendered conversation bear loss, and where its turns end."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from lumina.data.loss_rule import loss_of
from lumina.data.records import Message
from lumina.data.template_errors import failure
from lumina.data.template_places import Place, Rendered, lost
from lumina.data.template_tokens import TemplateVocabulary, Tokens


def end_of_turn(
    vocabulary: TemplateVocabulary, tokens: Tokens, rendered: Rendered, place: Place
) -> int | None:
    """Which token ends a turn: the special one right behind its words."""
    text = rendered.text
    if place.closed is not None:
        return _last_special(vocabulary, tokens, text, place)
    core_end = place.begin + len(text[place.begin : place.end].rstrip())
    following = [p.begin for p in rendered.places or () if p.begin >= place.end]
    limit = min(following, default=len(text))
    at = bisect.bisect_left(tokens.begins, core_end)
    for n in range(at, len(tokens.ids)):
        begin = tokens.begins[n]
        if begin >= limit or text[place.end : begin].strip():
            return None
        if vocabulary.is_special(tokens.ids[n], text[begin : tokens.ends[n]]):
            return n
    return None


def _last_special(
    vocabulary: TemplateVocabulary, tokens: Tokens, text: str, place: Place
) -> int | None:
    """The last special token of a turn, if only white space is behind it."""
    assert place.closed is not None
    n = bisect.bisect_left(tokens.begins, place.closed) - 1
    while n >= 0 and tokens.begins[n] >= place.end:
        piece = text[tokens.begins[n] : tokens.ends[n]]
        if vocabulary.is_special(tokens.ids[n], piece):
            return n
        if piece.strip():
            return None
        n -= 1
    return None


def loss_mask(
    vocabulary: TemplateVocabulary,
    messages: Sequence[Message],
    rendered: Rendered,
    tokens: Tokens,
    loss_on: str,
) -> list[float]:
    """[len(tokens.ids)]: what each token of a conversation weighs in the loss.

    It is False, True or the weight of its turn.

    Args:
        vocabulary: knows the special tokens.
        messages: the conversation.
        rendered: its text.
        tokens: of that text.
        loss_on: "assistant" or "all"; what a turn itself says of its loss comes first.

    Raises:
        LuminaError: E108 where the words of a turn that bears loss are not found.
    """
    everything = loss_on == "all"
    mask: list[float] = [everything] * len(tokens.ids)
    places = rendered.places or []
    counts = [sum(p.turn == n for p in places) for n in range(len(messages))]
    done = 0  # tokens of the turns before
    for place in places:
        message = messages[place.turn]
        assistant = message["role"] == "assistant"
        taught = loss_of(message, loss_on)
        if everything and taught is True:
            done = behind_place(vocabulary, tokens, rendered, place)
            continue
        behind = behind_place(vocabulary, tokens, rendered, place)
        if everything:
            mask[done:behind] = [taught] * (behind - done)
        elif taught:
            if counts[place.turn] != 1:
                raise lost(f"it writes turn {place.turn + 1} more than once")
            if assistant and end_of_turn(vocabulary, tokens, rendered, place) is None:
                raise failure(
                    "the model's chat template writes no special token behind the "
                    f"assistant's words of turn {place.turn + 1}, so the end of "
                    "an answer could not be learnt",
                )
            begin = place.taught if assistant else place.begin
            first = first_token(tokens, begin)
            mask[first:behind] = [taught] * (behind - first)
        done = behind
    for number, message in enumerate(messages):
        if not everything and loss_of(message, loss_on) and not counts[number]:
            raise lost(f"turn {number + 1} has none")
    return mask


def first_token(tokens: Tokens, begin: int) -> int:
    """The token that holds the character at `begin`."""
    first = bisect.bisect_left(tokens.begins, begin)
    while first > 0 and tokens.ends[first - 1] > begin:
        first -= 1
    return first


def behind_place(
    vocabulary: TemplateVocabulary, tokens: Tokens, rendered: Rendered, place: Place
) -> int:
    """The number of tokens up to the end of a turn."""
    stop = max(place.end, place.tagged or 0, len_of_turn(rendered, place))
    last = bisect.bisect_left(tokens.begins, stop)
    end = end_of_turn(vocabulary, tokens, rendered, place)
    return last if end is None else max(last, end + 1)


def len_of_turn(rendered: Rendered, place: Place) -> int:
    """Where the text of a turn with calls of tools ends; 0 for other turns."""
    if place.closed is None:
        return 0
    return len(rendered.text[: place.closed].rstrip())
