"""Options of the cache of keys and values, for the commands that generate."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lumina.cli.answering import say
from lumina.errors import LuminaError
from lumina.infer.kv.settings import BLOCK, CacheSettings

if TYPE_CHECKING:
    from lumina.model.network import Network

KV_FORMATS = ("auto", "fp32", "bf16", "fp16", "fp8", "int8", "int4")
"""Values of `--kv-cache-dtype`; `lumina.ops.kv_formats` has a file for each."""


def add_dtype_options(group: argparse._ArgumentGroup) -> None:
    """Declare the number format and the place of keys and values."""
    group.add_argument(
        "--kv-cache-dtype",
        choices=KV_FORMATS,
        default="auto",
        help="how keys and values are stored: fp8, int8 and int4 take less memory and "
        "round; default: auto, the type in which the model computes",
    )
    group.add_argument(
        "--kv-cache-offload",
        action="store_true",
        help="keep them in the host's memory; the GPU holds one layer's at a time, "
        "which takes less of its memory and more time",
    )


def add_cache_options(parser: argparse.ArgumentParser) -> None:
    """Declare how keys and values are kept."""
    group = parser.add_argument_group("cache of keys and values")
    add_dtype_options(group)
    group.add_argument(
        "--kv-window",
        type=int,
        default=0,
        metavar="N",
        help="let a model that sees all earlier tokens see only the newest N, which "
        "bounds the cache and changes answers; `lumina evaluate` says by how much",
    )
    group.add_argument(
        "--kv-sinks",
        type=int,
        default=0,
        metavar="N",
        help="with --kv-window, and the first N tokens of each row, such as 4",
    )
    group.add_argument(
        "--kv-cache-paged",
        action="store_true",
        help="keep them in blocks that a row takes as it grows and gives back at its "
        "end; prompts that begin alike share blocks and are read once",
    )
    group.add_argument(
        "--kv-block-size",
        type=int,
        metavar="N",
        help=f"tokens of a block, with --kv-cache-paged; default: {BLOCK}",
    )


def cache_settings(args: argparse.Namespace) -> CacheSettings:
    """The choice that the options make.

    Raises:
        LuminaError: E002 for a size of blocks without blocks.
    """
    if args.kv_block_size is not None and not args.kv_cache_paged:
        raise LuminaError(
            "E002", "--kv-block-size does nothing alone", "add --kv-cache-paged"
        )
    size = BLOCK if args.kv_block_size is None else args.kv_block_size
    return CacheSettings(
        args.kv_cache_dtype,
        args.kv_cache_offload,
        args.kv_cache_paged,
        size,
        args.kv_window,
        args.kv_sinks,
    )


def tokens_of(network: Network, asked: int) -> int:
    """Of a prompt and answer of this many tokens, how many the model can read."""
    from lumina.infer.generate import context_limit

    limit = context_limit(network)
    return asked if limit is None else min(asked, limit)


def tell_cache(
    settings: CacheSettings, network: Network, rows: int, tokens: int
) -> None:
    """Say the bytes of a cache that is not the plain one, before anything is generated.

    Args:
        settings: the choice, which is checked.
        network: the model.
        rows: continued side by side.
        tokens: of prompt and answer together, at most.

    Raises:
        LuminaError: as of `CacheSettings.check`.
    """
    settings.check(network)
    if settings != CacheSettings():
        say(settings.words(network, rows, tokens))
