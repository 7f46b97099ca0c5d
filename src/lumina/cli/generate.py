"""`lumina generate`: continue texts."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina.cli.answering import (
    Interruptible,
    add_answering_options,
    argument_text,
    checked_text,
    length_from,
    open_model,
    sampling_from,
    say,
    show,
    tell_sampling,
)
from lumina.cli.cache_options import (
    add_cache_options,
    cache_settings,
    tell_cache,
    tokens_of,
)
from lumina.cli.comparing import add_comparing_options, check_comparing, compare
from lumina.cli.step_options import add_step_options, step_settings
from lumina.cli.streams import output_is_unicode, show_any_character
from lumina.errors import LuminaError
from lumina.quantities import counted

if TYPE_CHECKING:
    from lumina.infer.decoding.settings import StepSettings
    from lumina.infer.kv.settings import CacheSettings
    from lumina.infer.text import Answers, Completion
    from lumina.model.network import Network


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.set_defaults(bare_words="--prompt")
    add_answering_options(parser)
    parser.add_argument(
        "--prompt", nargs="+", action="extend", default=[], metavar="TEXT",
        help="texts to continue",
    )  # fmt: skip
    parser.add_argument(
        "--prompts-file",
        metavar="FILE",
        help='one text a line; .jsonl: {"prompt": TEXT} a line; -: standard input',
    )
    parser.add_argument(
        "--test-prompts", nargs="+", action="extend", default=[], metavar="TEXT|FILE",
        help="texts to continue, or files of them, as --prompts-file takes them",
    )  # fmt: skip
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="show each answer as it is made, one after another; --no-stream makes "
        "them side by side, which is faster; default: stream to a terminal",
    )
    parser.add_argument(
        "--batch-size", type=int, default=16, metavar="N",
        help="texts continued side by side; default: 16",
    )  # fmt: skip
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a line: prompt, text, tokens, reason",
    )
    add_cache_options(parser)
    add_step_options(parser)
    add_comparing_options(parser)


def run(args: argparse.Namespace) -> int:
    """Continue every prompt and print it with its continuation."""
    prompts = _prompts(args)
    stop = [argument_text(text, "a text of --stop") for text in args.stop]
    sampling_from(args)  # refuse nonsense before the model is read
    if args.batch_size < 1:
        raise LuminaError("E005", f"batch-size is {args.batch_size}", "give 1 or more")
    check_comparing(args)
    if args.compare_precisions:
        return compare(args, prompts, stop)
    network, tokenizer = open_model(args)
    from lumina.infer.decoding.workspace import Workspace
    from lumina.infer.text import Answers

    sampling = sampling_from(args, tokenizer)
    tell_sampling(sampling, tokenizer)
    settings, length = cache_settings(args), length_from(args, tokenizer)
    stepping, workspace = step_settings(args), Workspace()
    longest = max(len(tokenizer.prompt(text)) for text in prompts)
    show_any_character()
    streams = sys.stdout.isatty() if args.stream is None else args.stream
    streams = streams and not args.json
    size = 1 if streams else args.batch_size
    rows = min(size, len(prompts))
    tell_cache(settings, network, rows, tokens_of(network, longest + length))
    started, tokens, full = time.monotonic(), 0, 0
    ids = [tokenizer.prompt(text) for text in prompts]
    options: dict[str, Any] = {
        "max_new_tokens": length,
        "stop": stop,
        "stepping": stepping,
    }
    with Interruptible() as interruption:
        options["stopped"] = lambda: interruption.asked
        if _make_room_for_each_other(network, ids, size, settings, stepping):
            from lumina.infer.serving.many import completions_of

            made = completions_of(network, tokenizer, ids, sampling, size, **options)
        else:
            options |= {"settings": settings, "workspace": workspace}
            shown = prompts if streams else None
            groups = (ids[at : at + size] for at in range(0, len(ids), size))
            answers = (
                Answers(network, tokenizer, group, sampling, **options)
                for group in groups
            )
            made = _in_turn(answers, shown, lambda: interruption.asked)
        for text, done in zip(prompts, made, strict=False):  # fewer, interrupted
            tokens += len(done.ids)
            full += done.reason == "context"
            if args.json:
                print(_as_json(text, done), flush=True)
            elif not streams:
                show(f"{text}{done.text}\n")
    _tell_cut_off(full, len(prompts), network.spec.context_length)
    seconds = time.monotonic() - started
    rate = tokens / max(seconds, 1e-9)
    say(f"{counted(tokens, 'token')} in {seconds:.1f} s, {rate:,.1f} a second")
    return 130 if interruption.asked else 0


def _tell_cut_off(full: int, prompts: int, context: int) -> None:
    """Says that answers ended before they were as long as was asked for."""
    if full:
        which = "the answer" if prompts == 1 else f"{full:,} of {prompts:,} answers"
        say(f"{which} ended at the model's context of {context:,} tokens")


def _make_room_for_each_other(
    network: Network,
    prompts: Sequence[Sequence[int]],
    rows: int,
    settings: CacheSettings,
    stepping: StepSettings,
) -> bool:
    """Whether prompts go through one batch, in which one that ends makes room."""
    from lumina.infer.kv.settings import CacheSettings
    from lumina.infer.serving.many import takes_many

    plain = settings == CacheSettings()
    many = len(prompts) > rows > 1 and plain
    return many and takes_many(network, prompts, stepping)


def _in_turn(
    answers: Iterable[Answers],
    shown: Sequence[str] | None,
    stopped: Callable[[], bool],
) -> Iterator[Completion]:
    """One batch after the other.

    Args:
        answers: the batches; of a single prompt each where that is shown.
        shown: the prompts, where answers are shown as they come.
        stopped: asked after every batch.
    """
    for number, group in enumerate(answers):
        if shown is not None:
            if number:
                print()
            show(shown[number], end="")
        for _, piece in group:
            if shown is not None:
                show(piece, end="")
        if shown is not None:
            print(flush=True)
        yield from group.completions
        if stopped():
            return


def _as_json(prompt: str, done: Completion) -> str:
    values = {
        "prompt": prompt,
        "text": done.text,
        "tokens": done.ids,
        "reason": done.reason or "interrupted",
    }
    return json.dumps(values, ensure_ascii=not output_is_unicode())


def _prompts(args: argparse.Namespace) -> list[str]:
    """The texts of --prompt, then those of --prompts-file."""
    prompts = [argument_text(text, "a text of --prompt") for text in args.prompt]
    if args.prompts_file:
        prompts += _read(args.prompts_file)
    for word in args.test_prompts:
        text = argument_text(word, "a text of --test-prompts")
        prompts += _read(word) if _is_file(word) else [text]
    if not prompts:
        raise LuminaError(
            "E005",
            "there is nothing to continue",
            "give --prompt, --prompts-file or --test-prompts",
        )
    return prompts


def _is_file(word: str) -> bool:
    """Whether a word names a file; a long text is no name that a system can take."""
    try:
        return Path(word).is_file()
    except (OSError, ValueError):
        return False


def _read(name: str) -> list[str]:
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise LuminaError("E104", f"{name} does not exist", "check the path") from None
    except UnicodeDecodeError as error:
        raise LuminaError(
            "E103", f"{name} is not UTF-8: {error.reason}", "save it as UTF-8"
        ) from None
    if name.endswith(".json"):
        raise LuminaError(
            "E101",
            f"{name}: prompts are read from texts, one a line, and from .jsonl",
            'write {"prompt": ...} a line, in a file that ends in .jsonl',
        )
    lines = [line.rstrip("\r") for line in text.split("\n")]
    if name.endswith(".jsonl"):
        unread: Counter[str] = Counter()
        made = [
            _field(name, n, line, unread)
            for n, line in enumerate(lines, 1)
            if line.strip()
        ]
        if unread:
            fields = ", ".join(f"{field} ({n:,})" for field, n in unread.items())
            say(f"{name}: fields that are not read: {fields}")
        return made
    found = [line for line in lines if line.strip()]
    if not found:
        raise LuminaError("E105", f"{name} has no prompt in it", "write one a line")
    return found


def _field(name: str, number: int, line: str, unread: Counter[str]) -> str:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise LuminaError(
            "E101", f"{name} line {number} is not JSON: {error}", "one object a line"
        ) from None
    prompt = record.get("prompt") if isinstance(record, dict) else None
    if not isinstance(prompt, str):
        raise LuminaError(
            "E102", f'{name} line {number} has no text in "prompt"', "add it"
        )
    unread.update(field for field in record if field != "prompt")
    return checked_text(prompt, f'"prompt" of {name} line {number}')
