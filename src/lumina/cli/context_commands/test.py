"""`lumina context test`: needles, and perplexity by position."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from lumina.cli.answering import (
    add_device_options,
    add_weights_options,
    model_path,
    row_progress,
    tell,
)
from lumina.cli.streams import output_is_unicode

if TYPE_CHECKING:
    from lumina.infer.long_context.of_run import Context

SUMMARY = "hide facts in long texts and ask for them; perplexity by position"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    model = parser.add_argument_group("model")
    add_weights_options(model)
    add_device_options(model)
    test = parser.add_argument_group("test")
    test.add_argument(
        "--lengths",
        nargs="+",
        action="extend",
        type=int,
        default=[],
        metavar="N",
        help="tokens of the rows; default: a quarter, a half, all and twice of those "
        "that the model was trained on",
    )
    test.add_argument(
        "--data",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help=(
            "long texts, which serve as haystacks and on which perplexity by position "
            "is measured; default: haystacks of invented sentences, and no perplexity"
        ),
    )
    for name, default, text in (
        ("needles", 4, "facts at each of five depths"),
        ("rows", 4, "rows of the texts of each length, at most"),
        ("seed", 0, "of the facts and haystacks"),
    ):
        test.add_argument(
            f"--{name}",
            type=int,
            default=default,
            metavar="N",
            help=f"{text}; default: {default}",
        )
    rope = parser.add_argument_group("positions")
    rope.add_argument(
        "--rope-scaling",
        choices=("none", "linear", "ntk", "yarn", "llama3"),
        help="read with other positions than the model was trained with",
    )
    rope.add_argument(
        "--rope-factor",
        type=float,
        default=1.0,
        metavar="X",
        help="times the trained length that these positions are for",
    )
    rope.add_argument(
        "--rope-original-length",
        type=int,
        metavar="N",
        help="of yarn and llama3, the trained length; default: the model's",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(args: argparse.Namespace) -> int:
    """Test and print the result."""
    from lumina.infer.long_context.of_run import context_of
    from lumina.model.registry import load_plugins

    load_plugins(args.plugins)
    progress = row_progress()
    outcome = context_of(
        model_path(args),
        args.lengths,
        args.data,
        rope_scaling=args.rope_scaling,
        rope_factor=args.rope_factor,
        rope_original_length=args.rope_original_length,
        asked=args.needles,
        rows=args.rows,
        seed=args.seed,
        device=args.device,
        precision=args.precision,
        which="best" if args.best else "latest",
        ema=args.ema,
        adapters=args.adapter,
        on_event=tell,
        on_row=None if progress is None else lambda _, done, all: progress(done, all),
    )
    if args.json:
        print(json.dumps(outcome.to_dict(), ensure_ascii=not output_is_unicode()))
    else:
        print(_text(outcome))
    return 0


def _text(outcome: Context) -> str:
    """A table of needles, one of perplexities, and how far the model reads."""
    lines = [
        f"model      {outcome.model}",
        f"trained    rows of {outcome.trained:,} tokens",
        f"positions  {outcome.positions}",
        "",
        "facts found, by their depth in the text",
    ]
    depths = [f"{x.depth:.0%}" for x in outcome.readings[0].needles]
    lines.append("  tokens " + "".join(f"{depth:>8}" for depth in (*depths, "all")))
    for reading in outcome.readings:
        cells = [f"{x.found} of {x.asked}" for x in reading.needles]
        cells.append(f"{reading.recall:.0%}")
        lines.append(f"{reading.length:>8,} " + "".join(f"{cell:>8}" for cell in cells))
    with_text = [reading for reading in outcome.readings if reading.parts]
    if with_text:
        lines += ["", "perplexity by position"]
    for reading in with_text:
        lines.append(f"  rows of {reading.length:,} tokens, {reading.rows} of them")
        lines += [
            f"    {part.begin:>8,} to {part.end - 1:>8,}  {part.perplexity:,.3f}"
            for part in reading.parts
        ]
    far = outcome.reach
    lines += [
        "",
        f"It reads {far:,} tokens: nine of ten facts or more are found."
        if far
        else "It does not read the shortest of these lengths: fewer than nine of ten "
        "facts are found.",
    ]
    return "\n".join(lines)
