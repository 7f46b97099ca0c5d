"""`lumina import FOLDER RUN`: a Hugging Face folder as a run to start from."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "folder", help="config.json and safetensors, as save_pretrained writes them"
    )
    parser.add_argument("run", help="the new run directory")
    parser.add_argument(
        "--tokenizer", help="a tokenizer.json or its folder; default: the folder's own"
    )


def run(args: argparse.Namespace) -> int:
    """Make the run and say what can be done with it."""
    from lumina.cli.text import count
    from lumina.config import Config, Source
    from lumina.data.tokenizer import Tokenizer
    from lumina.state.huggingface import import_folder
    from lumina.state.huggingface.run import write_run
    from lumina.state.huggingface.staging import require_unused
    from lumina.train.preparation import model_leaves

    target = Path(args.run).expanduser()
    require_unused(target)  # before gigabytes are read
    spec, tensors = import_folder(args.folder)
    tokenizer = Tokenizer.from_path(args.tokenizer or args.folder)
    origin = Path(args.folder).resolve().name
    config = Config().override(model_leaves(spec), Source("file", f"weights {origin}"))
    plan = write_run(target, spec, tensors, tokenizer, config, origin)
    for note in tokenizer.notes:
        print(f"note: {note}")
    print(
        f"{target}: {count(plan.parameters)} parameters from {args.folder}\n"
        f"next: lumina generate {target} --prompt 'Once'\n"
        f"      lumina train --init-from {target} --train-data PATH"
    )
    return 0
