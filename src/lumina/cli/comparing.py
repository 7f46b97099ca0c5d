"""`lumina generate --compare-precisions`: the same prompts in several precisions."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lumina.cli.answering import (
    INFERENCE_PRECISIONS,
    length_from,
    open_model,
    sampling_from,
    show,
)
from lumina.cli.streams import show_any_character
from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.data.tokenizer import Tokenizer
    from lumina.model.network import Network


def add_comparing_options(parser: argparse.ArgumentParser) -> None:
    """Declare what to compare and where to write it."""
    group = parser.add_argument_group("comparison of precisions")
    group.add_argument(
        "--compare-precisions",
        nargs="+",
        action="extend",
        default=[],
        choices=INFERENCE_PRECISIONS,
        metavar="NAME",
        help="continue the prompts in each of these, such as fp32 bf16 int8, with the "
        "same seed, and compare them with the first",
    )
    group.add_argument(
        "--output-comparisons",
        metavar="FILE",
        help="a new file for the comparison: JSON where its name ends in .json, else "
        "text",
    )
    group.add_argument(
        "--perplexity-data",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="texts to measure the perplexity of each precision on",
    )


def check_comparing(args: argparse.Namespace) -> None:
    """Refuse options of a comparison that do nothing.

    Raises:
        LuminaError: E002.
    """
    if args.compare_precisions:
        if args.precision != "auto":
            raise LuminaError(
                "E002",
                f"--compare-precisions names precisions, and so does "
                f"--inference-precision {args.precision}",
                "leave one of them out",
            )
        return
    for option in ("output_comparisons", "perplexity_data"):
        if getattr(args, option):
            raise LuminaError(
                "E002",
                f"--{option.replace('_', '-')} does nothing alone",
                "add --compare-precisions fp32 bf16 int8",
            )


def compare(
    args: argparse.Namespace, prompts: Sequence[str], stop: Sequence[str]
) -> int:
    """Compare, print and write.

    Raises:
        LuminaError: E002 where the file exists; else as of `compare_precisions`.
    """
    file = (
        Path(args.output_comparisons).expanduser() if args.output_comparisons else None
    )
    if file is not None and file.exists():
        raise LuminaError(
            "E002",
            f"{file} is there already, and nothing is overwritten",
            "name a new file",
        )
    from lumina.durable import write_file
    from lumina.infer.compare_precisions import compare_precisions

    def opened(name: str) -> tuple[Network, Tokenizer]:
        args.precision = name
        return open_model(args)

    sampling = dataclasses.replace(sampling_from(args), seed=args.seed or 0)
    found = compare_precisions(
        opened,
        args.compare_precisions,
        prompts,
        sampling,
        max_new_tokens=length_from(args),
        stop=stop,
        data=args.perplexity_data,
    )
    as_json = json.dumps(found.to_dict(), indent=2, ensure_ascii=False)
    show_any_character()
    show(as_json if args.json else found.to_text())
    if file is not None:
        content = as_json if file.suffix == ".json" else found.to_text()
        write_file(file, (content + "\n").encode())
    return 0
