"""What a run's report shows beside its metrics: samples of text, further results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from lumina.durable import changing, write_error, write_file
from lumina.state.json_lines import JsonLinesFile
from lumina.state.run_directory import RunDirectory


def leave_samples(
    run: RunDirectory, step: int, samples: Sequence[tuple[str, str]]
) -> None:
    """Append texts that the model wrote to RUN/samples.jsonl.

    Args:
        run: its directory.
        step: completed steps of the weights that wrote them.
        samples: (prompt, continuation) pairs.

    Raises:
        LuminaError: E106 or E204 when the file cannot be written.
    """
    if not samples:
        return
    file = JsonLinesFile(run.samples)
    for prompt, text in samples:
        file.append({"step": step, "prompt": prompt, "text": text})
    file.close()


def leave_results(run: RunDirectory, results: Mapping[str, str]) -> None:
    """Add figures to RUN/results.json; one of the same name is replaced.

    Raises:
        LuminaError: E106 or E204 when the file cannot be written.
    """
    if not results:
        return
    path = run.results
    try:
        with changing(path):
            try:
                known = json.loads(path.read_text("utf-8")) if path.exists() else {}
            except ValueError:
                known = {}  # half a file of an earlier version; measured again
            text = json.dumps({**known, **results}, indent=1) + "\n"
            write_file(path, text.encode())
    except OSError as error:
        raise write_error(error, path) from error
