"""What is wrong with a chat template."""

from __future__ import annotations

from lumina.errors import LuminaError

HINT = (
    "correct the template in the model's folder, or remove it: then Lumina's own chat "
    "markers are used"
)


class UnusableTemplateError(LuminaError):
    """A template that is of no use for any conversation: it is not one to leave out."""


def failure(message: str, hint: str = HINT) -> LuminaError:
    """What a template cannot do."""
    return LuminaError("E108", message, hint)
