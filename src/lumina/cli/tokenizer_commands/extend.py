"""`lumina tokenizer extend`: a model with more tokens."""

from __future__ import annotations

import argparse
from pathlib import Path

SUMMARY = "add tokens to a tokenizer and to its model"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "model",
        help="a run, a checkpoint, or a Hugging Face folder; nothing in it changes",
    )
    parser.add_argument("run", help="the new run directory")
    parser.add_argument(
        "--tokens",
        nargs="+",
        default=[],
        metavar="TOKEN",
        help="the new tokens; each begins as the mean of the tokens that spelled it",
    )
    parser.add_argument(
        "--tokens-file", metavar="FILE", help="a file with a new token on each line"
    )
    parser.add_argument(
        "--special",
        action="store_true",
        help="ordinary text never becomes the new tokens; without it, text becomes "
        "them wherever it spells them",
    )


def run(args: argparse.Namespace) -> int:
    """Make the new run and say what was added."""
    from lumina.config import Config, Source
    from lumina.data.tokenizer import Tokenizer
    from lumina.errors import shell_path
    from lumina.plan.model_options import model_leaves
    from lumina.state.huggingface.run import write_run
    from lumina.state.huggingface.staging import require_unused
    from lumina.state.vocabulary_extension import extend_vocabulary
    from lumina.state.weights import open_weights

    target = Path(args.run).expanduser()
    require_unused(target)
    tokens = [*args.tokens, *_listed(args.tokens_file)]
    weights = open_weights(args.model)
    try:
        tokenizer = Tokenizer.from_path(weights.tokenizer_folder)
        before = weights.spec
        made = extend_vocabulary(weights, tokenizer, tokens, special=args.special)
    finally:
        weights.close()
    origin = f"{Path(args.model).resolve().name}, {len(tokens)} tokens added"
    config = Config().override(
        model_leaves(made.spec), Source("file", f"weights {origin}")
    )
    write_run(target, made.spec, made.tensors, made.tokenizer, config, origin)
    for token, parts in list(made.parts.items())[:20]:
        print(f"{token!r}: the mean of {' '.join(parts)}")
    if len(made.parts) > 20:
        print(f"and {len(made.parts) - 20:,} more")
    new = shell_path(target)
    print(
        f"{target}: {before.vocab_size:,} tokens became {made.spec.vocab_size:,}, "
        f"{before.padded_vocab_size:,} rows {made.spec.padded_vocab_size:,}, in "
        f"{', '.join(made.changed)}\n"
        f"next: lumina train --init-from {new} --train-data PATH"
    )
    return 0


def _listed(file: str | None) -> list[str]:
    if file is None:
        return []
    from lumina.data.files import no_permission
    from lumina.errors import LuminaError

    path = Path(file).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise LuminaError("E104", f"{path}: no such file", "check the path") from None
    except PermissionError:
        raise no_permission(path) from None
    except UnicodeDecodeError:
        raise LuminaError("E103", f"{path}: not UTF-8", "convert it") from None
    return [line for line in lines if line]
