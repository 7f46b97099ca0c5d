"""`lumina bench decode`: time to the first token, tokens a second, memory."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.model.host_table import device_of

if TYPE_CHECKING:
    from lumina.infer.bench import Speed
    from lumina.infer.kv.settings import CacheSettings
    from lumina.model.network import Network

SUMMARY = "how fast a model answers, by batch size, prompt and way of caching"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from lumina.cli.answering import add_device_options, add_weights_options
    from lumina.cli.cache_options import KV_FORMATS, add_cache_options
    from lumina.cli.step_options import add_step_options

    model = parser.add_argument_group("model")
    add_weights_options(model)
    add_device_options(model)
    model.add_argument(
        "--preset",
        metavar="NAME",
        help="in place of RUN: a preset's shape with random weights of its device",
    )
    model.add_argument(
        "--config-file",
        metavar="FILE",
        help="the same with the shape of options in YAML",
    )
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
    group.add_argument(
        "--caches",
        nargs="+",
        default=[],
        metavar="WAY",
        help="ways of keeping keys and values to measure one after the other, in place "
        f"of --kv-cache-dtype and --kv-cache-paged: {', '.join(KV_FORMATS)}, or "
        "paged, paged+int8",
    )
    add_cache_options(parser)
    add_step_options(parser)
    parser.add_argument("--out", metavar="FILE", help="write the results as JSON, too")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Measure and print; 130 where Ctrl-C ended it, with what was measured."""
    from pathlib import Path

    from lumina.cli.answering import Interruptible, say
    from lumina.cli.cache_options import cache_settings, tell_cache, tokens_of
    from lumina.cli.step_options import step_settings
    from lumina.infer.bench import (
        check_amounts,
        decoding_floor,
        measure_generation,
    )
    from lumina.measure.bench.ceilings import bandwidth_of

    sizes = _numbers("batch-sizes", args.batch_sizes)
    lengths = _numbers("sequence-lengths", args.sequence_lengths)
    check_amounts(sizes, lengths, args.new_tokens, args.rounds)
    network = _network(args)
    ways = _ways(args, cache_settings(args))
    longest = tokens_of(network, max(lengths) + args.new_tokens)
    for settings in ways.values():
        tell_cache(settings, network, max(sizes), longest)
    bandwidth = bandwidth_of(device_of(network).type)
    found: list[Speed] = []
    rows: list[dict[str, Any]] = []
    with Interruptible() as interruption:
        for way, settings in ways.items():
            for speed in measure_generation(
                network,
                sizes,
                lengths,
                new_tokens=args.new_tokens,
                rounds=args.rounds,
                settings=settings,
                stepping=step_settings(args),
                stopped=lambda: interruption.asked,
            ):
                found.append(speed)
                floor = decoding_floor(network, speed.batch_size, bandwidth)
                rows.append(_row(speed, way, floor))
                say(_said(speed, way))
    facts = _facts(network, rows, bandwidth)
    if args.out:
        Path(args.out).write_text(json.dumps(facts, indent=1) + "\n")
    print(json.dumps(facts, indent=2) if args.json else _table(found, rows))
    if all(speed.problem for speed in found):
        return 130 if interruption.asked else 1
    return 130 if interruption.asked else 0


def _network(args: argparse.Namespace) -> Network:
    """The model of the options, or a preset's shape with random weights."""
    from lumina.cli.answering import open_model

    if args.preset is None and args.config_file is None:
        return open_model(args)[0]
    if args.model or args.resume:
        raise LuminaError("E005", "both a run and a shape are named", "name one")
    from lumina.config import Config
    from lumina.infer.random_network import random_network
    from lumina.plan.shape import resolve_spec

    config = Config.resolve(preset=args.preset, file=args.config_file, flags={})
    spec = resolve_spec(config, None)
    return random_network(spec, args.device, args.precision)


def _ways(args: argparse.Namespace, asked: CacheSettings) -> dict[str, CacheSettings]:
    """The ways of keeping keys and values: name -> settings."""
    from dataclasses import replace

    from lumina.cli.cache_options import KV_FORMATS

    if not args.caches:
        return {f"{asked.dtype}{' paged' if asked.paged else ''}": asked}
    if asked.dtype != "auto" or asked.paged:
        raise LuminaError(
            "E002",
            "--caches names the ways of caching, and so do --kv-cache-dtype and "
            "--kv-cache-paged",
            "leave one of them out",
        )
    ways = {}
    for text in args.caches:
        words = text.split("+")
        formats = [word for word in words if word != "paged"] or ["auto"]
        if len(formats) > 1 or formats[0] not in KV_FORMATS:
            raise LuminaError(
                "E005",
                f"{text!r} is no way of caching",
                f"choose {', '.join(KV_FORMATS)}, paged, or paged+int8",
            )
        ways[text] = replace(asked, dtype=formats[0], paged="paged" in words)
    return ways


def _row(speed: Speed, way: str, floor: float | None) -> dict[str, Any]:
    """What the JSON has of a measurement."""
    rate = speed.tokens_per_second
    share = None if rate is None or floor is None else rate / floor
    return speed.to_dict() | {
        "cache": way,
        "floor_tokens_per_second": floor,
        "share_of_floor": share,
    }


def _numbers(name: str, words: list[str]) -> list[int]:
    """1,4,8 or 1 4 8 as numbers."""
    try:
        pieces = [piece for word in words for piece in word.split(",")]
        return [int(piece) for piece in pieces if piece.strip()]
    except ValueError:
        raise LuminaError(
            "E005", f"{name} is {' '.join(words)}", "give whole numbers, such as 1,4,8"
        ) from None


def _said(speed: Speed, way: str) -> str:
    """One line as soon as it is measured."""
    from lumina.quantities import rate

    what = f"batch {speed.batch_size}, prompt {speed.prompt_tokens:,}, {way}"
    return f"{what}: {speed.problem or rate(speed.tokens_per_second) + ' tokens/s'}"


def _facts(
    network: Any, rows: list[dict[str, Any]], bandwidth: float
) -> dict[str, Any]:
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
        "bandwidth": bandwidth,
        "speeds": rows,
    }


def _table(found: list[Speed], facts: list[dict[str, Any]]) -> str:
    from lumina.cli.profiling import milliseconds
    from lumina.cli.text import table
    from lumina.quantities import byte_size, rate, share

    rows = [
        [
            row["cache"],
            str(speed.batch_size),
            f"{speed.prompt_tokens:,}",
            "-" if speed.first is None else milliseconds(speed.first),
            rate(speed.prompt_rate),
            rate(speed.tokens_per_second),
            share(row["share_of_floor"]),
            byte_size(speed.memory_bytes),
            speed.problem or speed.path,
        ]
        for speed, row in zip(found, facts, strict=True)
    ]
    head = (
        "cache", "batch", "prompt", "first token", "prompt/s", "tokens/s", "of-floor",
        "memory", "step",
    )  # fmt: skip
    text = table(head, rows, right="batch prompt prompt/s tokens/s of-floor memory")
    return (
        f"{text}\nof-floor: tokens/s over those if nothing but the weights were read, "
        "once a token, at the rate of a large copy here; of dense models"
    )
