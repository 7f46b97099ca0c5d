"""Requests as OpenAI's API forms them: what is read, and what is refused by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.asking import turns_to_answer
from lumina.infer.chat import check_markers
from lumina.infer.sampling import Sampling, answer_length, sampling_for
from lumina.infer.serving.request import Problem, Request

BOTH = frozenset(
    {
        "model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k",
        "seed", "stop", "stream", "stream_options", "user",
    }
)  # fmt: skip
"""Fields of both kinds of request; `top_k` is Lumina's own, `user` changes nothing."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1,), "best_of": (1,), "echo": (False,), "logprobs": (False,),
    "top_logprobs": (), "presence_penalty": (0, 0.0), "frequency_penalty": (0, 0.0),
    "logit_bias": ({},), "suffix": ("",), "tools": ([],),
    "response_format": ({"type": "text"},), "store": (False,),
    "tool_choice": ("none", "auto"), "parallel_tool_calls": (True, False),
    "metadata": ({},), "service_tier": ("auto", "default"), "modalities": (["text"],),
    "min_p": (0, 0.0), "repetition_penalty": (1, 1.0), "min_tokens": (0,),
    "ignore_eos": (False,), "skip_special_tokens": (True,),
}  # fmt: skip
"""Fields that are not followed -> the values, beside null, that ask for nothing."""

MOST_STOPS = 16
MOST_PROMPTS = 64


class BadRequestError(Exception):
    """A body that cannot be answered.

    Attributes:
        problem: what the client is told.
    """

    def __init__(self, text: str, status: int = 400, code: str | None = None) -> None:
        super().__init__(text)
        self.problem = Problem(status, text, "invalid_request_error", code)


@dataclass(frozen=True)
class Asked:
    """What one body asks for.

    Attributes:
        chat: a conversation, not a text to continue.
        requests: one for each prompt.
        stream: the answer comes piece by piece.
        usage: a stream ends with the numbers of tokens.
    """

    chat: bool
    requests: list[Request] = field(default_factory=list)
    stream: bool = False
    usage: bool = False


def read_body(
    body: Any, chat: bool, tokenizer: Tokenizer, model: str, most_tokens: int
) -> Asked:
    """The requests of a body.

    Args:
        body: the JSON value.
        chat: of /v1/chat/completions, else of /v1/completions.
        tokenizer: of the model.
        model: its name; a body may name no other.
        most_tokens: of prompt and answer together.

    Raises:
        BadRequestError: for what cannot be answered as it was asked.
    """
    if not isinstance(body, dict):
        raise BadRequestError("the body is not a JSON object")
    _check_fields(body, chat)
    named = body.get("model")
    if named not in (None, model):
        raise BadRequestError(
            f"there is no model {named!r}, only {model!r}", 404, "model_not_found"
        )
    try:
        if chat:
            prompts = [_conversation(body, tokenizer)]
        else:
            prompts = _prompts(body, tokenizer)
        sampling = sampling_for(
            tokenizer.generation,
            **{
                name: _all(name, _number(body, name, whole))
                for name, whole in (
                    ("temperature", False), ("top_p", False), ("top_k", True),
                    ("seed", True),
                )
            },
        )  # fmt: skip
        length = answer_length(tokenizer.generation, _length(body))
    except LuminaError as error:
        raise BadRequestError(f"{error.code}: {error.message}") from None
    stop = _stop(body)
    requests = [
        _request(ids, sampling, length, stop, tokenizer, most_tokens) for ids in prompts
    ]
    Request.together(requests)
    stream, options = body.get("stream") or False, body.get("stream_options") or {}
    if not isinstance(stream, bool) or not isinstance(options, dict):
        raise BadRequestError("stream is true or false, stream_options an object")
    return Asked(chat, requests, stream, options.get("include_usage") is True)


def _check_fields(body: dict[str, Any], chat: bool) -> None:
    known = BOTH | {"messages" if chat else "prompt"}
    for name, value in body.items():
        neutral = NEUTRAL.get(name, ())
        asks_nothing = value is None and name in NEUTRAL
        asks_nothing |= any(value == x and type(value) is type(x) for x in neutral)
        if name in known or asks_nothing:
            continue
        raise BadRequestError(f"{name} is not supported: leave it out")


def _request(
    ids: list[int],
    sampling: Sampling,
    length: int,
    stop: list[str],
    tokenizer: Tokenizer,
    most_tokens: int,
) -> Request:
    if not ids:
        raise BadRequestError("the prompt is empty")
    room = most_tokens - len(ids)
    if room < 1:
        raise BadRequestError(
            f"the prompt has {len(ids):,} tokens, and the server takes {most_tokens:,} "
            "with the answer",
            code="context_length_exceeded",
        )
    return Request(ids, sampling, min(length, room), stop, tokenizer)


def _conversation(body: dict[str, Any], tokenizer: Tokenizer) -> list[int]:
    check_markers(tokenizer)
    messages = body.get("messages")
    if isinstance(messages, list):
        messages = [_message(one) for one in messages]
    return tokenizer.chat_prompt(turns_to_answer(messages))


def _message(message: Any) -> Any:
    """A turn as other programs may form it: text in parts, the system as developer."""
    if not isinstance(message, dict):
        return message
    found = {key: value for key, value in message.items() if value is not None}
    content = found.get("content")
    if isinstance(content, list):
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            if kind != "text" or not isinstance(part.get("text"), str):
                raise BadRequestError(
                    f"a part of a message is {kind or 'no object'!r}: only text is read"
                )
        found["content"] = "".join(part["text"] for part in content)
    if found.get("role") == "developer":
        found["role"] = "system"
    return found


def _prompts(body: dict[str, Any], tokenizer: Tokenizer) -> list[list[int]]:
    """A text, several, token ids, or several rows of them."""
    prompt = body.get("prompt")
    if isinstance(prompt, str):
        prompt = [prompt]
    if isinstance(prompt, list) and prompt and all(type(one) is int for one in prompt):
        prompt = [prompt]
    if not isinstance(prompt, list) or not 0 < len(prompt) <= MOST_PROMPTS:
        raise BadRequestError(
            f"prompt is a text, token ids, or a list of at most {MOST_PROMPTS} of them"
        )
    return [_ids(one, tokenizer) for one in prompt]


def _ids(prompt: Any, tokenizer: Tokenizer) -> list[int]:
    if isinstance(prompt, str):
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise BadRequestError("the prompt is not valid Unicode") from None
        return tokenizer.prompt(prompt)
    size = tokenizer.vocab_size
    ids: list[Any] = prompt if isinstance(prompt, list) else [None]
    if all(type(token) is int and 0 <= token < size for token in ids):
        return ids
    raise BadRequestError(f"a prompt is a text, or token ids from 0 to {size - 1}")


def _length(body: dict[str, Any]) -> int | None:
    names = ["max_completion_tokens", "max_tokens"]
    names = [name for name in names if body.get(name) is not None]
    if not names:
        return None
    length = _number(body, names[0], True)
    if length < 1:
        raise BadRequestError(f"{names[0]} is {length}: give 1 or more")
    return int(length)


def _number(body: dict[str, Any], name: str, whole: bool) -> Any:
    value = body.get(name)
    kinds = (int,) if whole else (int, float)
    if value is not None and type(value) not in kinds:
        raise BadRequestError(f"{name} is not a {'whole ' if whole else ''}number")
    return value


def _all(name: str, value: Any) -> Any:
    """The top-k that other servers write for all tokens, as it is written here."""
    return 0 if name == "top_k" and value == -1 else value


def _stop(body: dict[str, Any]) -> list[str]:
    stop = body.get("stop") or []
    texts = [stop] if isinstance(stop, str) else stop
    if (
        not isinstance(texts, list)
        or len(texts) > MOST_STOPS
        or not all(isinstance(text, str) and text for text in texts)
    ):
        raise BadRequestError(f"stop is a text, or a list of up to {MOST_STOPS} texts")
    return texts
