"""How a run's model answers, written where `lumina generate` reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lumina.config import Config
from lumina.durable import write_file
from lumina.infer.sampling import sampling_for

_FILE = "generation_config.json"


def write_answering(tokenizer: Path, config: Config) -> None:
    """Write what the settings say of answers; nothing where they say nothing.

    The file is the one of transformers, so that an exported model answers alike there.

    Args:
        tokenizer: the folder of the run's tokenizer.
        config: the settings.

    Raises:
        OSError: where it cannot be written.
    """
    asked = config.answering
    choice = {"temperature": asked.temperature, "top_k": asked.top_k}
    choice["top_p"] = asked.top_p
    file = tokenizer / _FILE
    says: dict[str, Any] = {}
    if file.exists():  # runs of earlier versions have none
        says = json.loads(file.read_text(encoding="utf-8"))
    values = dict(says)
    if asked.max_new_tokens is not None:
        values["max_new_tokens"] = asked.max_new_tokens
    if any(value is not None for value in choice.values()):
        sampling = sampling_for(says, **choice)  # type: ignore[arg-type]
        values |= {"do_sample": not sampling.greedy}
        values |= {"top_k": sampling.top_k, "top_p": sampling.top_p}
        values.pop("temperature", None)  # transformers allows no 0
        if not sampling.greedy:
            values["temperature"] = sampling.temperature
    if values != says:
        text = json.dumps(values, indent=2, ensure_ascii=False) + "\n"
        write_file(file, text.encode())
