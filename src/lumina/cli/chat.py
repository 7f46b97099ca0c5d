"""`lumina chat`: talk with a model."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

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
from lumina.cli.cache_options import add_cache_options, cache_settings, tell_cache
from lumina.cli.step_options import add_step_options, step_settings
from lumina.cli.streams import read_any_bytes, show_any_character
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.infer.chat import ChatSession

COMMANDS = """\
  /reset   forget the conversation
  /adapter NAME[=FACTOR] ...   answer with these adapters; alone: which there are
  /exit    end (so does Ctrl-D)
  /help    show this
  Ctrl-C   stops an answer; a second one ends"""

LOOK_SECONDS = 0.2
"""How often a prompt that waits for a line looks for a Ctrl-C it did not notice."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.set_defaults(bare_words="--message")
    add_answering_options(parser)
    add_cache_options(parser)
    add_step_options(parser, rows=False)
    parser.add_argument(
        "--system-prompt", default="", metavar="TEXT", help="said before everything"
    )
    parser.add_argument(
        "--message",
        action="append",
        metavar="TEXT",
        help="say this, print the answer and end; may be given again for more turns",
    )


def run(args: argparse.Namespace) -> int:
    """Talk until /exit, the end of the input, or a second Ctrl-C."""
    sampling_from(args)  # refuse nonsense before the model is read
    system_prompt = argument_text(args.system_prompt, "--system-prompt")
    messages = [argument_text(m, "a text of --message") for m in args.message or []]
    if any(not message.strip() for message in messages):
        raise LuminaError(
            "E105", "a --message is empty", "write what is to be answered"
        )
    stop = [argument_text(text, "a text of --stop") for text in args.stop]
    network, tokenizer = open_model(args, beside=True)
    from lumina.infer.chat import ChatSession

    sampling = sampling_from(args, tokenizer)
    tell_sampling(sampling, tokenizer)
    settings = cache_settings(args)
    tell_cache(settings, network, 1, network.spec.context_length)
    show_any_character()
    read_any_bytes()
    session = ChatSession(
        network,
        tokenizer,
        sampling=sampling,
        max_new_tokens=length_from(args, tokenizer),
        system_prompt=system_prompt,
        stop=stop,
        settings=settings,
        stepping=step_settings(args),
    )
    if messages:
        return _one_by_one(session, messages)
    if not sys.stdin.isatty():
        lines = (line.rstrip("\r\n") for line in sys.stdin)
        return _one_by_one(session, lines, commands=True)
    return _converse(session)


def _one_by_one(
    session: ChatSession, texts: list[str] | Iterator[str], commands: bool = False
) -> int:
    """Answers texts that are given beforehand; a failure ends it."""
    for text in texts:
        if not text.strip():
            continue
        if commands and text.startswith("/"):
            if _command(session, text) == "end":
                break
        elif not _answer(session, text, Interruptible()):
            return 130
    return 0


def _converse(session: ChatSession) -> int:
    """Asks a person at a terminal, until they end it."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives `input` history and editing)
    say(f"Talk with the model.\n{COMMANDS}")
    interruption = Interruptible()
    while True:
        try:
            text = _read_line("\n> ")
            if not text.strip():
                continue
            interruption.asked = False
            if not text.startswith("/"):
                _answer(session, text, interruption)
            elif _command(session, text) == "end":
                return 0
        except EOFError:
            print()
            return 0
        except KeyboardInterrupt:
            # Wherever it came, the first one ends nothing but an answer.
            if interruption.asked:
                print()
                return 130
            interruption.asked = True
            say("\n(Ctrl-C once more ends)")
        except LuminaError as error:
            say(str(error))


def _read_line(prompt: str) -> str:
    """What a person types; every Ctrl-C is noticed, at whatever moment it comes.

    `input` does not see a signal that arrives after it printed the prompt and before it
    sleeps until a key is pressed. An alarm wakes it now and then to look.
    """
    before = signal.signal(signal.SIGALRM, lambda number, frame: None)
    try:
        signal.setitimer(signal.ITIMER_REAL, LOOK_SECONDS, LOOK_SECONDS)
        return input(prompt)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _command(session: ChatSession, text: str) -> str:
    """Does what a line that begins with / asks for; "end" if that is to end."""
    word = text.split()[0].lower()
    if word in ("/exit", "/quit"):
        return "end"
    if word == "/reset":
        session.reset()
        say("(forgotten)")
    elif word == "/adapter":
        say(_switched(session, text.split()[1:]))
    elif word == "/help":
        say(COMMANDS)
    else:
        say(f"there is no {word}\n{COMMANDS}")
    return ""


def _switched(session: ChatSession, words: list[str]) -> str:
    """Answer with other adapters from now on; says which act."""
    from lumina.infer.adapters import adapters_of, in_words, read_factors

    if words:
        session.switch(read_factors(words))
    return in_words(adapters_of(session.network))


def _answer(session: ChatSession, text: str, interruption: Interruptible) -> bool:
    """Prints one answer as it is made; False when Ctrl-C broke it off."""
    checked_text(text, "a message")
    with interruption:
        warned = False
        for piece in session.say(text, stopped=lambda: interruption.asked):
            if not warned:
                warned = _tell_dropped(session)
            show(piece, end="")
    print(flush=True)
    if interruption.asked:
        say("(stopped)")
    elif session.last.reason in ("length", "context"):
        limit = "--max-new-tokens" if session.last.reason == "length" else "context"
        say(f"(cut off: {limit} reached)")
    return not interruption.asked


def _tell_dropped(session: ChatSession) -> bool:
    if session.dropped:
        say(f"(the conversation is long: {session.dropped} oldest messages forgotten)")
    return True
