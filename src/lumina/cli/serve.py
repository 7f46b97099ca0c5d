"""`lumina serve`: answer requests over HTTP, several side by side."""

from __future__ import annotations

import argparse
import os
import signal
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

from lumina.cli.answering import (
    add_device_options,
    add_weights_options,
    model_path,
    open_model,
    say,
)
from lumina.cli.cache_options import add_dtype_options
from lumina.cli.option_file import OptionFile
from lumina.cli.step_options import add_step_options, step_settings
from lumina.errors import LuminaError
from lumina.infer.kv.settings import BLOCK, CacheSettings

if TYPE_CHECKING:
    from lumina.infer.serving.engine import Engine, Limits
    from lumina.model.network import Network

KEY = "LUMINA_API_KEY"
"""The environment variable that holds the key which clients have to send."""


SYNONYMS = {
    "batch_size": "max_batch_size",
    "inference_precision": "precision",
    "top_k": "experts_per_token",
    "torch_compile": "compile",
    "use_flash_attention": "flash_attention",
}
"""Names that a file may have for options."""

OTHER_FILES = 128
"""Files that a server has open beside its connections, or may have."""

SENDING_SECONDS = 10.0
"""How long clients have to take the last answers when the server ends."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    model = parser.add_argument_group("model")
    add_weights_options(model)
    add_device_options(model)
    parser.set_defaults(goal=[], expert_registry="experts")
    add_dtype_options(parser.add_argument_group("cache of keys and values"))
    add_step_options(parser, guesses=False)
    group = parser.add_argument_group("server")
    group.add_argument(
        "--host",
        default="127.0.0.1",
        help="where to listen; default: 127.0.0.1, which only this machine reaches. "
        f"Another one needs a key in the environment variable {KEY}",
    )
    for flag, default, text in (
        ("--port", 8000, "port to listen on; 0: a free one"),
        ("--max-batch-size", 32, "requests answered side by side"),
        ("--max-sequence-length", 2048, "most tokens of a prompt and its answer"),
        ("--max-waiting", 256, "requests that may wait; more are refused (503)"),
        ("--max-connections", 512, "connections that may be open; more are refused"),
    ):
        group.add_argument(
            flag, type=int, default=default, metavar="N",
            help=text + f"; default: {default}",
        )  # fmt: skip
    group.add_argument(
        "--kv-cache-tokens",
        type=int,
        metavar="N",
        help="tokens that the cache has room for, all requests together; default: "
        "enough for --max-batch-size requests of --max-sequence-length",
    )
    group.add_argument(
        "--kv-block-size", type=int, default=BLOCK, metavar="N",
        help=f"tokens of a block of the cache; default: {BLOCK}",
    )  # fmt: skip
    group.add_argument(
        "--experts-per-token", type=int, metavar="N",
        help="experts of a layer that a token goes through, of a mixture of experts; "
        "default: as it was trained",
    )  # fmt: skip
    group.add_argument(
        "--expert-parallel-size", type=int, default=1, metavar="N",
        help="devices that a layer's experts are divided over; a server has all on "
        "one, so only 1 is taken",
    )  # fmt: skip
    group.add_argument(
        "--use-kv-cache",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the keys and values of what was read; a server always does, so "
        "--no-use-kv-cache is refused",
    )
    group.add_argument(
        "--flash-attention",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="let attention of the plain kernels take the flash kernel where it fits; "
        "without, the efficient and the plain one",
    )
    group.add_argument(
        "--config-file",
        metavar="FILE",
        action=OptionFile,
        synonyms=SYNONYMS,
        help="a YAML file of these options, or the recipe inference_deployment "
        "(docs/serving.md); options that stand after it hold",
    )
    group.add_argument(
        "--served-model-name",
        metavar="NAME",
        help="what clients call the model; default: the name of its folder",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; a second one ends at once."""
    from lumina.infer.experts_at_work import set_experts_per_token
    from lumina.infer.serving.engine import Engine, Limits
    from lumina.infer.serving.warm_up import warm_up
    from lumina.infer.serving.web import LOOPBACK, Served, Server

    limits = Limits(
        rows=args.max_batch_size,
        tokens=args.max_sequence_length,
        waiting=args.max_waiting,
        cache_tokens=args.kv_cache_tokens or 0,
    )
    key = os.environ.get(KEY, "")
    if args.host not in LOOPBACK and not key:
        raise LuminaError(
            "E002",
            f"--host {args.host} lets other machines ask, and there is no key",
            f"set the environment variable {KEY}, or leave --host out",
        )
    if args.kv_cache_tokens is not None and args.kv_cache_tokens < 1:
        raise LuminaError(
            "E005", f"kv-cache-tokens is {args.kv_cache_tokens}", "give 1 or more"
        )
    _check_connections(args.max_connections)
    if not 0 <= args.port < 65536:
        raise LuminaError("E005", f"port is {args.port}", "give 0 to 65535")
    if args.expert_parallel_size != 1:
        raise LuminaError(
            "E002",
            f"expert-parallel-size is {args.expert_parallel_size}, and a server "
            "answers with one device",
            "leave it out, or give 1",
        )
    if not args.use_kv_cache:
        raise LuminaError(
            "E002",
            "without its cache a server would process the whole row again for each "
            "token",
            "leave --no-use-kv-cache out",
        )
    settings = CacheSettings(
        args.kv_cache_dtype, args.kv_cache_offload, True, args.kv_block_size
    )
    path = model_path(args)
    args.model, args.resume = str(path), None
    name = args.served_model_name or path.resolve().name
    network, tokenizer = open_model(args)
    if args.experts_per_token is not None:
        set_experts_per_token(network, args.experts_per_token)
    limits = _within_context(limits, network)
    stepping = replace(step_settings(args), flash=args.flash_attention)
    engine = Engine(network, limits, settings, stepping)
    if stepping.compile:
        say("compiling blocks; the server listens once that is done")
        warm_up(engine)
    try:
        served = Served(engine, tokenizer, name, key)
        server = Server((args.host, args.port), served, args.max_connections)
    except OSError as error:
        raise LuminaError(
            "E005",
            f"cannot listen on {args.host}, port {args.port}: {error.strerror}",
            "choose another --port",
        ) from None
    _tell(server.server_address[1], args.host, name, engine, settings, network)
    _serve(server, engine)
    return 0


def _check_connections(most: int) -> None:
    """See that the system lets this many be open.

    Raises:
        LuminaError: E005 where it does not.
    """
    import resource

    if most < 1:
        raise LuminaError("E005", f"max-connections is {most}", "give 1 or more")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise LuminaError(
                "E005",
                f"max-connections is {most:,}, and the system lets a process open "
                f"{hard:,} files",
                f"give {max(hard - OTHER_FILES, 1):,} or less, or raise ulimit -n",
            )
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _within_context(limits: Limits, network: Network) -> Limits:
    """Rows no longer than the model reads."""
    from lumina.cli.cache_options import tokens_of

    return replace(limits, tokens=tokens_of(network, limits.tokens))


def _tell(
    port: int,
    host: str,
    name: str,
    engine: Engine,
    settings: CacheSettings,
    network: Network,
) -> None:
    """Where it listens, and what its cache may take."""
    from lumina.infer.kv.paged_seats import PagedSeats
    from lumina.plan.kv_cache import token_bytes
    from lumina.quantities import byte_size

    limits, seats = engine.limits, engine.batch.seats
    dtype = network.backbone.compute_dtype
    a_token = token_bytes(network.spec, settings.dtype, dtype)
    if isinstance(seats, PagedSeats):
        blocks, size = seats.pool.limit or 0, seats.pool.block
        kept = f"{byte_size(blocks * size * a_token)} in {blocks:,} blocks of {size:,}"
    else:
        whole = byte_size(seats.most * seats.slots * a_token)
        kept = f"{whole} in {seats.most:,} seats of {seats.slots:,}"
    say(
        f"up to {limits.rows:,} requests side by side, {limits.tokens:,} tokens each; "
        f"keys and values: at most {kept} tokens; steps: {engine.batch.step.path}"
    )
    shown = f"[{host}]" if ":" in host else host
    say(f"{name} is at http://{shown}:{port}/v1 (Ctrl-C ends)")


def _serve(server: object, engine: Engine) -> None:
    """Listen until a signal; then answer what was asked, and end."""
    from lumina.infer.serving.web import Server

    assert isinstance(server, Server)
    asked = threading.Event()

    def on_signal(number: int, frame: object) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {
        number: signal.signal(number, on_signal)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    listening = threading.Thread(target=server.serve_forever, daemon=True)
    listening.start()
    try:
        while not asked.wait(0.5):
            if engine.state == "broken":
                raise LuminaError(
                    "E003",
                    "the model has failed, and answers nothing any more",
                    "start the server again; what failed is said above",
                )
        say("ending: what was asked is answered first; Ctrl-C once more ends at once")
        engine.close()
        server.finish(SENDING_SECONDS)
    finally:
        server.server_close()
        for number, handler in before.items():
            signal.signal(number, handler)
