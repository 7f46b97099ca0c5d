"""`lumina bench generation`: time to the first token, tokens a second, memory."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError

if TYPE_CHECKING:
    from lumina.infer.bench import Speed

SUMMARY = "how fast a model answers, by batch size and length of the prompt"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from lumina.cli.answering import add_device_options, add_weights_options
    from lumina.cli.cache_options import add_cache_options

    model = parser.add_argument_group("model")
    add_weights_options(model)
    add_device_options(model)
    parser.set_defaults(goal=[], expert_registry="experts")
    group = parser.add_argument_group("measurement")
    for flag, default, text in (
        ("--batch-sizes", "1,4,8,16", "prompts side by side"),
        ("--sequence-lengths", "512,1024,2048", "tokens of each prompt"),
    ):
        group.add_argument(
            flag,
            nargs="+",
            default=[default],
            metavar="N,N",
            help=f"{text} (default {default})",
        )
    for flag, number, text in (
        ("--new-tokens", 64, "tokens of each answer"),
        ("--rounds", 3, "how often each is measured, after one that does not count"),
    ):
        group.add_argument(
            flag,
            type=int,
            default=number,
            metavar="N",
            help=f"{text} (default {number})",
        )
    add_cache_options(parser)
    parser.add_argument("--out", metavar="FILE", help="write the results as JSON, too")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 130 where Ctrl-C ended it, with what was measured."""
    from pathlib import Path

    from lumina.cli.answering import Interruptible, open_model, say
    from lumina.cli.cache_options import cache_settings, tell_cache, tokens_of
    from lumina.infer.bench import check_amounts, measure_generation

    sizes = _numbers("batch-sizes", args.batch_sizes)
    lengths = _numbers("sequence-lengths", args.sequence_lengths)
    check_amounts(sizes, lengths, args.new_tokens, args.rounds)
    network, _ = open_model(args)
    settings = cache_settings(args)
    longest = tokens_of(network, max(lengths) + args.new_tokens)
    tell_cache(settings, network, max(sizes), longest)
    found = []
    with Interruptible() as interruption:
        for speed in measure_generation(
            network,
            sizes,
            lengths,
            new_tokens=args.new_tokens,
            rounds=args.rounds,
            settings=settings,
            stopped=lambda: interruption.asked,
        ):
            found.append(speed)
            say(_said(speed))
    facts = _facts(network, found)
    if args.out:
        Path(args.out).write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=2) if args.json else _table(found))
    if all(speed.problem for speed in found):
        return 130 if interruption.asked else 1
    return 130 if interruption.asked else 0


def _numbers(name: str, words: list[str]) -> list[int]:
    """1,4,8 or 1 4 8 as numbers."""
    try:
        pieces = [piece for word in words for piece in word.split(",")]
        return [int(piece) for piece in pieces if piece.strip()]
    except ValueError:
        raise LuminaError(
            "E005", f"{name} is {' '.join(words)}", "give whole numbers, such as 1,4,8"
        ) from None


def _said(speed: Speed) -> str:
    """One line as soon as it is measured."""
    from lumina.quantities import rate

    what = f"batch {speed.batch_size}, prompt {speed.prompt_tokens:,}"
    return f"{what}: {speed.problem or rate(speed.tokens_per_second) + ' tokens/s'}"


def _facts(network: Any, found: list[Speed]) -> dict[str, Any]:
    """What was measured, and on what."""
    import time

    import torch

    from lumina.plan.environment import probe

    parameter = next(network.parameters())
    machine = probe(parameter.device.type)
    return {
        "kind": "generation",
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": machine.device_name,
        "threads": torch.get_num_threads(),
        "torch": machine.torch_version,
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "parameters": sum(one.numel() for one in network.parameters()),
        "speeds": [speed.to_dict() for speed in found],
    }


def _table(found: list[Speed]) -> str:
    from lumina.cli.profiling import milliseconds
    from lumina.cli.text import table
    from lumina.quantities import byte_size, rate

    rows = [
        [
            str(speed.batch_size),
            f"{speed.prompt_tokens:,}",
            "-" if speed.first is None else milliseconds(speed.first),
            rate(speed.prompt_rate),
            rate(speed.tokens_per_second),
            byte_size(speed.memory_bytes),
            speed.problem,
        ]
        for speed in found
    ]
    head = ("batch", "prompt", "first token", "prompt/s", "tokens/s", "memory", "")
    return table(head, rows, right="batch prompt prompt/s tokens/s memory")
