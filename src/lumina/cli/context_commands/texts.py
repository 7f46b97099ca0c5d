"""`lumina context texts`: texts that teach a model to look back."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Conversations as the text that they are, with the end token behind each answer."""

SUMMARY = "write texts to train on, with facts that are asked for at their end"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("out", metavar="FILE", help="a .jsonl file that does not exist")
    for name, default, text in (
        ("count", 1000, "texts"),
        ("length", 600, "words of a text, about"),
        ("facts", 4, "facts in a text, 1 to 12; each is asked for"),
        ("asked", 1, "times that each fact is asked for"),
        ("seed", 0, "the same seed writes the same texts"),
    ):
        parser.add_argument(
            f"--{name}",
            type=int,
            default=default,
            metavar="N",
            help=f"{text}; default: {default}",
        )
    parser.add_argument(
        "--turns",
        action="store_true",
        help="write conversations: the numbers that answer are the assistant's turns, "
        "so that a run can weigh them (--role-weights) or train on them alone; "
        "FILE.jinja beside FILE writes them as plain text (--chat-template)",
    )


def _text(turns: Sequence[tuple[str, str]]) -> dict[str, object]:
    return {"text": "".join(part for turn in turns for part in turn)}


def _conversation(turns: Sequence[tuple[str, str]]) -> dict[str, object]:
    roles = ("user", "assistant")
    return {
        "messages": [
            {"role": role, "content": part}
            for turn in turns
            for role, part in zip(roles, turn, strict=True)
        ]
    }


def run(args: argparse.Namespace) -> int:
    """Write the texts."""
    from pathlib import Path

    from lumina.durable import write_file
    from lumina.errors import LuminaError
    from lumina.infer.long_context.needles import NAMES, training_turns

    path = Path(args.out).expanduser()
    template = path.with_name(f"{path.name}.jinja")
    for one in (path, template) if args.turns else (path,):
        if one.exists():
            raise LuminaError(
                "E005",
                f"{one} is there already, and nothing is overwritten",
                "name a new file",
            )
    least = min(args.count, args.length, args.asked)
    if least < 1 or not 1 <= args.facts <= len(NAMES):
        raise LuminaError(
            "E005",
            f"count {args.count}, length {args.length}, facts {args.facts}, asked "
            f"{args.asked}",
            f"give at least 1 of each, and at most {len(NAMES)} facts",
        )
    texts = training_turns(args.count, args.length, args.facts, args.seed, args.asked)
    record = _conversation if args.turns else _text
    lines = "".join(json.dumps(record(turns)) + "\n" for turns in texts)
    write_file(path, lines.encode())
    if args.turns:
        write_file(template, TEMPLATE.encode())
    print(f"{path}: {args.count:,} texts")
    return 0
