"""Flags by which the design documents start a command, and the commands they start.

The documents have one program whose flags choose what it does. Here each of those is a
command. `lumina --check-environment` and `lumina train --estimate-time ...` are written
as they are there, and mean the command that stands in this table.
"""

from __future__ import annotations

from collections.abc import Sequence

from lumina.errors import LuminaError

FLAGS: dict[str, tuple[str, ...]] = {
    "--check-environment": ("doctor",),
    "--dev-mode": ("doctor", "--dev-mode"),
    "--dry-run": ("train", "--dry-run"),
    "--estimate-parameters": ("plan", "--show", "parameters"),
    "--estimate-time": ("plan", "--show", "time"),
    "--analyze-memory": ("plan", "--show", "memory"),
    "--profile-training": ("profile", "training"),
    "--profile-data-loading": ("profile", "data"),
    "--profile-memory": ("profile", "memory"),
    "--validate-data": ("data", "validate", "--validate-data"),
    "--test-generation": ("generate",),
    "--benchmark-generation": ("bench", "generation"),
    "--analyze-checkpoints": ("checkpoints", "analyze"),
    "--lr-find": ("lr-range",),
    "--suggest": ("suggest",),
    "--optimize": ("optimize",),
    "--lr-range-test": ("lr-range",),
}
"""Flag -> the command, and what is put behind it; a flag that stands for the values
that follow it is the last of these words itself."""

PROGRAM = ("train",)
"""Commands that the documents' program itself may be taken for."""


def translated(words: Sequence[str]) -> list[str]:
    """The words of a command that were written as in the design documents.

    Args:
        words: what stands behind `lumina`.

    Returns:
        The same words, where they name a command or no flag of the table.

    Raises:
        LuminaError: E002 where two flags ask for two commands.
    """
    bare = words[1:] if words and words[0] in PROGRAM else words
    if not bare or (bare is words and not words[0].startswith("-")):
        return list(words)
    found = {
        word: FLAGS[flag]
        for word in _before_the_end(bare)
        if (flag := word.replace("_", "-")) in FLAGS
    }
    commands = {_command(meant): word for word, meant in found.items()}
    if not commands:
        return list(words)
    if len(commands) > 1:
        one, other, *_ = commands.values()
        raise LuminaError(
            "E002",
            f"{one} and {other} ask for two commands",
            f"`lumina {' '.join(found[one])}` and `lumina {' '.join(found[other])}` do "
            "one each",
        )
    (command,) = commands
    rest: list[str] = []
    for word in bare:
        rest += found[word][len(command) :] if word in found else [word]
    return [*command, *rest]


def _command(meant: Sequence[str]) -> tuple[str, ...]:
    """The words that name the command: those before the first option."""
    options = [index for index, word in enumerate(meant) if word.startswith("-")]
    return tuple(meant[: options[0]] if options else meant)


def _before_the_end(words: Sequence[str]) -> Sequence[str]:
    """The words before `--`, behind which nothing is an option."""
    return words[: words.index("--")] if "--" in words else words
