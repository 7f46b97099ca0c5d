"""`lumina import FOLDER RUN`: a Hugging Face folder as a run to start from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumina.data.tokenizer import Tokenizer
    from lumina.state.weights import Weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "folder",
        help="config.json and safetensors, as save_pretrained writes them; or a run",
    )
    parser.add_argument("run", help="the new run directory")
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="a tokenizer as `train` takes it; default: the folder's own",
    )
    parser.add_argument(
        "--num-kv-heads",
        type=int,
        metavar="N",
        help="pool key/value heads into this many, each the mean of its neighbours",
    )
    parser.add_argument(
        "--eval-data",
        action="append",
        metavar="PATH",
        help="with --num-kv-heads: texts to measure the loss on, before and after",
    )
    parser.add_argument(
        "--drop-mtp",
        action="store_true",
        help="of DeepSeek-V3, leave out the layers for predicting several tokens",
    )


def run(args: argparse.Namespace) -> int:
    """Make the run and say what can be done with it."""
    from lumina.config import Config, Source
    from lumina.data.tokenizer import Tokenizer
    from lumina.errors import LuminaError, shell_path
    from lumina.plan.model_options import model_leaves
    from lumina.quantities import count
    from lumina.state.huggingface.run import write_run
    from lumina.state.huggingface.staging import require_unused
    from lumina.state.weights import open_weights

    target = Path(args.run).expanduser()
    require_unused(target)  # before gigabytes are read
    if args.eval_data and args.num_kv_heads is None:
        raise LuminaError(
            "E002",
            "--eval-data does nothing without --num-kv-heads",
            "the loss of weights that stay the same does not change",
        )
    weights = open_weights(args.folder, drop_mtp=args.drop_mtp).in_memory()
    tokenizer = Tokenizer.from_path(args.tokenizer or weights.tokenizer_folder)
    origin = Path(args.folder).resolve().name
    if args.num_kv_heads is not None:
        weights, said = _pooled(weights, tokenizer, args.num_kv_heads, args.eval_data)
        print(said)
        origin = f"{origin}, {said}"
    config = Config().override(
        model_leaves(weights.spec), Source("file", f"weights {origin}")
    )
    plan = write_run(
        target, weights.spec, weights.source.tensors, tokenizer, config, origin
    )
    for note in tokenizer.notes:
        print(f"note: {note}")
    run = shell_path(target)
    print(
        f"{target}: {count(plan.parameters)} parameters from {args.folder}\n"
        f"next: lumina generate {run} --prompt 'Once'\n"
        f"      lumina train --init-from {run} --train-data PATH"
    )
    return 0


def _pooled(
    weights: Weights, tokenizer: Tokenizer, num_kv_heads: int, paths: list[str] | None
) -> tuple[Weights, str]:
    """The weights with fewer key/value heads, and what that cost."""
    from dataclasses import replace

    import torch

    from lumina.data.documents import read_documents
    from lumina.infer.load import filled_network, find_device
    from lumina.measure.text_bits import text_loss
    from lumina.state.head_pooling import pool_key_value_heads
    from lumina.state.weights import InMemory

    before = weights.spec.num_kv_heads
    spec, tensors = pool_key_value_heads(
        weights.spec, weights.source.tensors, num_kv_heads
    )
    after = replace(weights, spec=spec, source=InMemory(tensors))
    said = f"key/value heads pooled from {before} to {num_kv_heads}"
    if not paths:
        return after, f"{said} (name --eval-data to measure what it costs)"
    texts = [document.text for document in read_documents(paths) if document.text]
    device = find_device("auto")
    losses = [
        text_loss(
            filled_network(one, device, torch.float32).eval(),
            tokenizer,
            texts,
            context=min(one.spec.seq_length, 1024),
        )
        for one in (weights, after)
    ]
    return after, f"{said}: loss {losses[0]:.4f} before, {losses[1]:.4f} after"
