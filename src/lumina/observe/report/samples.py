"""Texts that the model wrote, as they changed over the run."""

from __future__ import annotations

from typing import Any

from lumina.observe.report.kept import shortened
from lumina.observe.report.record import Record

MOST_PROMPTS = 12
MOST_OF_A_PROMPT = 10


def samples(record: Record, longest: int) -> list[dict[str, Any]]:
    """The prompts, each with what the model made of it: `prompt`, and `texts`.

    Args:
        record: with the samples, in the order of their steps.
        longest: characters of a text that are shown.

    Returns:
        Of each prompt the texts as (step, text), the last step first.
    """
    by_prompt: dict[str, dict[int, str]] = {}
    for sample in record.samples:
        prompt, text = str(sample.get("prompt", "")), str(sample.get("text", ""))
        by_prompt.setdefault(prompt, {})[int(sample.get("step") or 0)] = text
    shown = []
    for prompt, texts in list(by_prompt.items())[-MOST_PROMPTS:]:
        steps = sorted(texts)
        stride = -(-len(steps) // MOST_OF_A_PROMPT) or 1
        # The last one always stays: it is what the run has come to.
        chosen = steps[::-1][::stride]
        shown.append(
            {
                "prompt": shortened(prompt, longest),
                "texts": [(f"{n:,}", shortened(texts[n], longest)) for n in chosen],
            }
        )
    return shown
