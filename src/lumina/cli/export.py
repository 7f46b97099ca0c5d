"""`lumina export RUN FOLDER`: a run's model as a folder that transformers loads."""

from __future__ import annotations

import argparse
from pathlib import Path

DTYPES = ("float32", "bfloat16", "float16")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", help="a run directory, or one of its checkpoints")
    parser.add_argument("folder", help="the new folder")
    parser.add_argument(
        "--format",
        dest="format_name",
        help="model_type of the folder, such as llama, mistral, qwen3 or olmoe; "
        "default: the first that holds the model",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="type of the weights; default: float32, which loses nothing",
    )
    parser.add_argument(
        "--best",
        action="store_true",
        help="the best evaluated checkpoint, not the last",
    )
    parser.add_argument(
        "--task", metavar="NAME", help="of a model of several tasks, the one to export"
    )
    parser.add_argument(
        "--ema", action="store_true", help="the moving average of the weights"
    )


def run(args: argparse.Namespace) -> int:
    """Write the folder and say how to load it."""
    from lumina.data.tokenizer import Tokenizer
    from lumina.state.heads import one_task
    from lumina.state.huggingface import export_folder
    from lumina.state.huggingface.formats import choose
    from lumina.state.weights import open_weights

    weights = open_weights(args.run, "best" if args.best else "latest", ema=args.ema)
    try:
        weights = one_task(weights, args.task)
        # Before the tokenizer: a model of puzzles is refused for what it is.
        kind = choose(weights.spec, args.format_name).title
        tokenizer = Tokenizer.from_path(weights.tokenizer_folder)
        folder = export_folder(
            (weights.spec, weights.source.tensor),
            tokenizer,
            args.folder,
            dtype=args.dtype,
            format_name=args.format_name,
        )
    finally:
        weights.close()
    size = sum(path.stat().st_size for path in Path(folder).iterdir())
    print(
        f"{folder}: {weights.description} as {kind}, {args.dtype}, "
        f"{size / 1e6:,.1f} MB with its tokenizer\n"
        f"load it with transformers: AutoModelForCausalLM.from_pretrained('{folder}')"
    )
    return 0
