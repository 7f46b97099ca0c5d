"""What takes the place of something that is not available, and its refusal."""

from __future__ import annotations

from lumina.errors import LuminaError
from lumina.plan.plan import Plan


def refuse_fallbacks(plan: Plan) -> None:
    """Refuse a Plan in which something was replaced, for `--strict`.

    Raises:
        LuminaError: E003, naming everything that was replaced.
    """
    if plan.fallbacks:
        raise LuminaError(
            "E003",
            f"--strict: {'; '.join(dict.fromkeys(plan.fallbacks))}",
            "leave --strict out, or name what is available (`lumina doctor "
            "--capabilities` shows it)",
        )
