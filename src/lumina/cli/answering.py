"""What `generate` and `chat` share: options, loading, and being interrupted."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import sys
import time
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.data.tokenizer import Tokenizer
    from lumina.infer.sampling import Sampling
    from lumina.model.network import Network

INFERENCE_PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8", "int4")
"""Values of `--inference-precision`; `lumina.infer.precisions` says what each is."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def add_answering_options(parser: argparse.ArgumentParser) -> None:
    """Declare which model to use and how tokens are chosen."""
    model = parser.add_argument_group("model")
    add_weights_options(model)
    model.add_argument(
        "--goal",
        action="append",
        default=[],
        metavar="TEXT",
        help="lean towards the attached experts that serve it; may be repeated",
    )
    model.add_argument(
        "--expert-registry",
        default="experts",
        metavar="FOLDER",
        help="where goals and experts are listed; default: experts",
    )
    add_device_options(model)
    choice = parser.add_argument_group("choice of tokens")
    for flags, kind, default, text in (
        (("--temperature",), float, "0.8", "0: always the likeliest"),
        (("--top-k",), int, "50", "draw from the k likeliest; 0: from all"),
        (("--top-p",), float, "0.9", "draw from the likeliest that reach this share"),
        (("--seed",), int, None, "the same seed gives the same answer"),
        (("--max-new-tokens", "--max-tokens"), int, "512", "most tokens of an answer"),
    ):
        shown = "" if default is None else f"; default: {default}"
        if isinstance(default, str):
            shown = (
                f"; default: what the model's generation_config.json says, or {default}"
            )
            default = None
        choice.add_argument(
            *flags, type=kind, default=default, help=text + shown, metavar="N"
        )
    choice.add_argument(
        "--stop",
        nargs="+",
        action="extend",
        default=[],
        metavar="TEXT",
        help="end an answer where one of these would begin",
    )


def add_weights_options(model: argparse._ArgumentGroup) -> None:
    """Declare which weights to use."""
    model.add_argument(
        "model",
        nargs="?",
        metavar="RUN",
        help="a run, a checkpoint or an exported folder; default: the newest in ./runs",
    )
    model.add_argument("--resume", metavar="RUN", help="the same as RUN")
    model.add_argument(
        "--best", action="store_true", help="the best checkpoint, not the newest"
    )
    model.add_argument(
        "--ema", action="store_true", help="the averaged weights, where a run kept them"
    )
    model.add_argument(
        "--task", metavar="NAME", help="of a model of several tasks, the one to use"
    )
    add_adapter_option(model)
    model.add_argument(
        "--plugins",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="your own .py files or modules that the model's registered parts are in",
    )


def add_adapter_option(group: argparse._ActionsContainer) -> None:
    """Declare which adapters are added to the model."""
    group.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="FOLDER",
        help="an adapter for the model: a folder in PEFT's format, or a run that "
        "trained one; FOLDER=0.5 adds half of it; may be given again, and several add "
        "up",
    )


def add_device_options(model: argparse._ArgumentGroup) -> None:
    """Declare where they are used, and in which type."""
    model.add_argument(
        "--device", default="auto", help="auto, cpu, cuda or cuda:N; default: auto"
    )
    model.add_argument(
        "--inference-precision",
        "--precision",
        dest="precision",
        choices=INFERENCE_PRECISIONS,
        default="auto",
        help="int8 and int4 keep the large matrices so and compute as auto; default: "
        "auto, which is bf16 on a GPU that has it, else fp32",
    )


def sampling_from(
    args: argparse.Namespace, tokenizer: Tokenizer | None = None
) -> Sampling:
    """How tokens are chosen; E005 for a value out of range.

    Args:
        args: of the command line.
        tokenizer: the model's, which knows what its generation_config.json says.
    """
    from lumina.infer.sampling import sampling_for

    for text in args.stop:
        checked_text(text, "a text of --stop")
    return sampling_for(
        {} if tokenizer is None else tokenizer.generation,
        temperature=args.temperature,
        top_k=args.top_k,
        top_p=args.top_p,
        seed=args.seed,
    )


def length_from(args: argparse.Namespace, tokenizer: Tokenizer | None = None) -> int:
    """Most tokens of an answer.

    Args:
        args: of the command line.
        tokenizer: the model's, which knows what its generation_config.json says.
    """
    from lumina.infer.sampling import answer_length

    says = {} if tokenizer is None else tokenizer.generation
    return answer_length(says, args.max_new_tokens)


def tell_sampling(sampling: Sampling, tokenizer: Tokenizer) -> None:
    """Says how tokens are chosen, where the model's own files have a say in it."""
    from lumina.infer.sampling import decides_sampling, not_followed

    says = tokenizer.generation
    if decides_sampling(says):
        chosen = "always the likeliest token"
        if not sampling.greedy:
            chosen = (
                f"temperature {sampling.temperature:g}, top-k {sampling.top_k}, "
                f"top-p {sampling.top_p:g}"
            )
        say(f"{chosen} (the model's generation_config.json, and your options)")
    if left := not_followed(says):
        say(f"not done here, though generation_config.json asks: {', '.join(left)}")


def open_model(
    args: argparse.Namespace, *, beside: bool = False
) -> tuple[Network, Tokenizer]:
    """The model that the options name; remarks go to stderr.

    Args:
        args: of the command line.
        beside: keep adapters beside the weights, where they can be switched.
    """
    from lumina.infer.load import load
    from lumina.model.registry import load_plugins
    from lumina.state.task_heads import require_one_head

    load_plugins(args.plugins)
    network, tokenizer = load(
        model_path(args),
        args.device,
        precision=args.precision,
        which="best" if args.best else "latest",
        ema=args.ema,
        task=args.task,
        adapters=args.adapter,
        beside=beside,
        on_event=tell,
    )
    require_one_head(network)
    if args.goal:
        from lumina.infer.expert_goals import lean_towards
        from lumina.state.expert_registry import Registry

        names = lean_towards(network, args.goal, Registry(args.expert_registry))
        say(f"routing leans towards {', '.join(names)}")
    return network, tokenizer


def model_path(args: argparse.Namespace) -> Path:
    """The folder that the options name, or the newest run below ./runs."""
    named = [path for path in (args.model, args.resume) if path]
    if len(named) > 1:
        raise LuminaError(
            "E005", f"both {named[0]} and --resume {named[1]} are named", "name one"
        )
    if named:
        return Path(named[0])
    from lumina.cli.run_files import find_runs

    runs = find_runs(Path("runs")) if Path("runs").is_dir() else []
    if not runs:
        raise LuminaError(
            "E104", "no model is named and ./runs has none", "name a run or a folder"
        )
    say(f"using {runs[-1]}")
    return runs[-1]


def tell(
    kind: str,
    severity: str,
    code: str | None,
    message: str,
    step: int | None = None,
    **data: Any,
) -> None:
    """Says an event on standard error."""
    say(f"{severity} {code}: {message}" if code else f"{severity}: {message}")


def checked_text(text: str, where: str) -> str:
    """The text as it is; E103 for one that is not valid Unicode.

    Bytes of the command line or of standard input that are not UTF-8 arrive as single
    surrogates, and JSON can hold half of a pair; no tokenizer takes either.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise LuminaError(
            "E103",
            f"{where} is not valid Unicode at character {error.start + 1}",
            "write it in UTF-8, and characters escaped in JSON as whole pairs",
        ) from None
    return text


def argument_text(text: str, where: str) -> str:
    """A text of the command line: UTF-8 whatever the locale; else as `checked_text`."""
    with contextlib.suppress(UnicodeError):
        text = os.fsencode(text).decode()
    return checked_text(text, where)


def say(text: str) -> None:
    """A remark that is not part of the answer."""
    print(text, file=sys.stderr, flush=True)


class RowProgress:
    """Says how far an evaluation is, every ten seconds."""

    def __init__(self) -> None:
        self._said = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Called before every batch."""
        if time.monotonic() - self._said >= 10:
            self._said = time.monotonic()
            say(f"{done / total:.0%} of {total:,} rows")


def row_progress() -> RowProgress | None:
    """Progress on stderr if that is a terminal, else None."""
    return RowProgress() if sys.stderr.isatty() else None


def show(text: str, end: str = "\n") -> None:
    """Prints what a model said; a terminal is not given its control characters."""
    print(visible(text) if sys.stdout.isatty() else text, end=end, flush=True)


def visible(text: str) -> str:
    """Control characters, which could drive a terminal, as replacement characters."""
    return _CONTROL.sub("\ufffd", text)


class Interruptible:
    """While it is entered, the first Ctrl-C only sets `asked`; the second interrupts.

    The answer is left between two tokens, so what was said and cached stays whole.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before: Any = None

    def __enter__(self) -> Interruptible:
        self._before = signal.signal(signal.SIGINT, self._on_interrupt)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
