"""One call each: continue texts, answer a conversation."""

from __future__ import annotations

import difflib
import inspect
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from lumina.data.records import BadRecord, Message, read_turns
from lumina.data.tokenizer import Tokenizer
from lumina.errors import LuminaError
from lumina.infer.chat import check_markers
from lumina.infer.decoding.settings import StepSettings
from lumina.infer.decoding.workspace import Workspace
from lumina.infer.kv.settings import CacheSettings
from lumina.infer.load import Model, load, with_tokenizer
from lumina.infer.sampling import Sampling, answer_length, sampling_for
from lumina.infer.text import Answers
from lumina.model.network import Network
from lumina.state.task_heads import require_one_head


@dataclass(frozen=True)
class Ways:
    """How answers are made, whatever is asked; see `Answers`."""

    stop: str | Sequence[str]
    cache: CacheSettings | None
    stepping: StepSettings | None
    workspace: Workspace | None = None

    @property
    def stops(self) -> Sequence[str]:
        """The texts before which an answer ends."""
        return [self.stop] if isinstance(self.stop, str) else self.stop


@overload
def generate(model: Model, prompt: str, **options: Any) -> str: ...


@overload
def generate(model: Model, prompt: Sequence[str], **options: Any) -> list[str]: ...


def generate(
    model: Model,
    prompt: str | Sequence[str],
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    batch_size: int = 16,
    cache: CacheSettings | None = None,
    stepping: StepSettings | None = None,
    **loading: Any,
) -> str | list[str]:
    """Continue a text, or several side by side.

    Args:
        model: a run, a checkpoint or an exported folder, or what `lumina.load` returns.
        prompt: the text to continue, or a list of them.
        max_new_tokens: most tokens of an answer; None: what the model's
            generation_config.json says, or 512.
        temperature: 0 always takes the likeliest token. None leaves this, and the
            next two, to the model's generation_config.json; see `sampling_for`.
        top_k: see `Sampling`.
        top_p: see `Sampling`.
        seed: the same seed gives the same answer.
        stop: a text, or several, before which an answer ends.
        batch_size: texts continued at a time; where there are more, one that ends
            makes room for the next.
        cache: how keys and values are kept.
        stepping: how the step that gives each row a token is run.
        loading: where `model` is a folder, options of `lumina.load` (device, dtype,
            which, ema, task).

    Returns:
        What the model adds to the prompt; a list of it for a list.

    Raises:
        LuminaError: as `lumina.load`; E005 for values out of range, for a prompt that
            does not fit and for one that is no text, E103 for one that is not Unicode,
            E004 for an option that there is not.
    """
    chosen = _chosen(temperature, top_k, top_p, seed, batch_size)
    several = isinstance(prompt, Iterable) and not isinstance(prompt, (str, bytes))
    texts: list[Any] = list(prompt) if several else [prompt]
    network, tokenizer = _opened(model, loading)
    sampling = sampling_for(tokenizer.generation, **chosen)
    ways = Ways(stop, cache, stepping, Workspace())
    prompts = [tokenizer.prompt(text) for text in texts]
    made = _all_answers(
        network, tokenizer, prompts, sampling, max_new_tokens, ways, batch_size
    )
    return made if several else made[0]


@overload
def chat(
    model: Model, messages: str | Sequence[Mapping[str, str]], **options: Any
) -> str: ...


@overload
def chat(
    model: Model, messages: Sequence[Sequence[Mapping[str, str]]], **options: Any
) -> list[str]: ...


def chat(
    model: Model,
    messages: str | Sequence[Mapping[str, str]] | Sequence[Sequence[Mapping[str, str]]],
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] = (),
    batch_size: int = 16,
    cache: CacheSettings | None = None,
    stepping: StepSettings | None = None,
    **loading: Any,
) -> str | list[str]:
    """The assistant's answer to a conversation, or to each of several.

    A conversation that is too long for the model is refused, not shortened:
    `lumina.infer.chat.ChatSession` talks turn by turn and forgets the oldest ones.

    Args:
        model: as for `generate`.
        messages: turns with `role` (system, user, assistant) and `content`, the user's
            last; or what the user says, as a text; or a list of lists of turns, which
            are answered side by side, each as it would be alone.
        max_new_tokens: as for `generate`, like every other option.
        temperature: as for `generate`.
        top_k: see `Sampling`.
        top_p: see `Sampling`.
        seed: the same seed gives the same answer.
        stop: a text, or several, before which the answer ends.
        batch_size: conversations answered at a time, as for `generate`.
        cache: how keys and values are kept.
        stepping: as for `generate`.
        loading: as for `generate`.

    Raises:
        LuminaError: as `generate`; E102 for turns that are no conversation, and for a
            model that was not trained on conversations.
    """
    chosen = _chosen(temperature, top_k, top_p, seed, batch_size)
    asked: Any = messages
    if isinstance(asked, str):
        asked = [{"role": "user", "content": asked}]
    several = bool(asked) and isinstance(asked, list | tuple)
    several = several and all(isinstance(one, list | tuple) for one in asked)
    talks = [
        turns_to_answer(list(one) if isinstance(one, Sequence) else one)
        for one in (asked if several else [asked])
    ]
    network, tokenizer = _opened(model, loading)
    check_markers(tokenizer)
    sampling = sampling_for(tokenizer.generation, **chosen)
    ids = [tokenizer.chat_prompt(turns) for turns in talks]
    ways = Ways(stop, cache, stepping, Workspace())
    made = _all_answers(
        network, tokenizer, ids, sampling, max_new_tokens, ways, batch_size
    )
    return made if several else made[0]


def _chosen(
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    seed: int | None,
    batch_size: int,
) -> dict[str, Any]:
    """What `sampling_for` takes; nonsense is refused before the model is read."""
    chosen: dict[str, Any] = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "seed": seed,
    }
    sampling_for({}, **chosen)
    if batch_size < 1:
        raise LuminaError("E005", f"batch-size is {batch_size}", "give 1 or more")
    return chosen


def turns_to_answer(messages: Any) -> list[Message]:
    """The turns of a conversation that ends with a question.

    Raises:
        LuminaError: E102 for what is no conversation, or ends with an answer.
    """
    try:
        turns = read_turns(messages, "messages")
    except BadRecord as bad:
        raise LuminaError(
            bad.code, bad.reason, bad.hint or "give turns with role and content"
        ) from None
    if turns[-1]["role"] != "user":
        raise LuminaError(
            "E102",
            f"the last message is the {turns[-1]['role']}'s, so nothing is asked",
            "end with a message of the user",
        )
    return list(turns)


MEANT = {
    "do_sample": "temperature=0 always takes the likeliest token",
    "max_length": "max_new_tokens counts the tokens of the answer alone",
    "max_tokens": "max_new_tokens is the most tokens of an answer",
    "max_completion_tokens": "max_new_tokens is the most tokens of an answer",
    "num_return_sequences": "give the prompt in a list, as often as it is asked",
    "n": "give the prompt in a list, as often as it is asked",
    "stop_strings": "stop is a text, or several, before which an answer ends",
    "num_beams": "there is no search by beams",
    "repetition_penalty": "there is none here",
    "min_p": "there is none here: top_p and top_k are",
    "torch_dtype": "dtype is the type of weights and activations",
    "device_map": "device is where the model is put",
    "checkpoint": "the folder of a checkpoint is a model, too",
    "best": 'which="best" is the best checkpoint',
}
"""Names that other libraries have for what is asked: what to say here."""

_OWN = (
    "max_new_tokens", "temperature", "top_k", "top_p", "seed", "stop", "batch_size",
    "cache", "stepping",
)  # fmt: skip

_LOADING = tuple(inspect.signature(load).parameters)[1:]


def _opened(model: Model, loading: dict[str, Any]) -> tuple[Network, Tokenizer]:
    """A model that has one head and its tokenizer."""
    for name in loading:
        if name not in _LOADING:
            close = difflib.get_close_matches(name, (*_OWN, *_LOADING), 1, 0.75)
            meant = MEANT.get(name) or (f"did you mean {close[0]}?" if close else "")
            raise LuminaError(
                "E004",
                f"{name} is not an option",
                meant or f"there are {', '.join((*_OWN, *_LOADING))}",
            )
    if isinstance(model, str | os.PathLike):
        network, tokenizer = load(model, **loading)
    elif loading:
        raise LuminaError(
            "E005",
            f"{', '.join(loading)}: a model that is loaded stays as it is",
            "give these to lumina.load, or give a folder in place of the model",
        )
    else:
        network, tokenizer = with_tokenizer(model)
    require_one_head(network, "load it with task=")
    return network, tokenizer


def _all_answers(
    network: Network,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    max_new_tokens: int | None,
    ways: Ways,
    batch_size: int,
) -> list[str]:
    """The whole answers to prompts; where there are many, one that ends makes room."""
    if len(prompts) > batch_size and ways.cache is None:
        from lumina.infer.serving.many import answers_of, takes_many

        how = ways.stepping or StepSettings()
        if takes_many(network, prompts, how):
            return answers_of(
                network,
                tokenizer,
                prompts,
                sampling,
                batch_size,
                max_new_tokens=answer_length(tokenizer.generation, max_new_tokens),
                stop=ways.stops,
                stepping=how,
            )
    made: list[str] = []
    for start in range(0, len(prompts), batch_size):
        ids = prompts[start : start + batch_size]
        made += _answers(network, tokenizer, ids, sampling, max_new_tokens, ways)
    return made


def _answers(
    network: Network,
    tokenizer: Tokenizer,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    max_new_tokens: int | None,
    ways: Ways,
) -> list[str]:
    """The whole answers to prompts side by side."""
    answers = Answers(
        network,
        tokenizer,
        prompts,
        sampling,
        max_new_tokens=answer_length(tokenizer.generation, max_new_tokens),
        stop=ways.stops,
        settings=ways.cache,
        stepping=ways.stepping,
        workspace=ways.workspace,
    )
    for _ in answers:
        pass
    return [answer.text for answer in answers.completions]
