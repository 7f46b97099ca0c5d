"""How to go on with a run: commands that can be copied into a shell as they stand."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from lumina.errors import shell_path
from lumina.observe.report.record import Record


def commands(record: Record) -> list[tuple[str, str]]:
    """(what for, command), the most likely first."""
    return list(_commands(record))


def _commands(record: Record) -> Iterator[tuple[str, str]]:
    run = shell_path(record.run.path)
    spec, plan = record.spec, record.plan
    own = (spec.get("parts") or {}).get("plugins") or ()
    plugins = f" --plugins {shlex.join(map(str, own))}" if own else ""
    if record.state == "finished":
        more = (
            f" --steps {2 * int(plan.get('steps') or 0)}" if plan.get("steps") else ""
        )
        longer = ("train for twice as many steps", f"lumina train --resume {run}{more}")
    else:
        longer = None
        yield "go on from the last checkpoint", f"lumina train --resume {run}{plugins}"
    if not _solves_puzzles(record):  # puzzles are answered, not prompted
        tasks = (spec.get("tasks") or {}).get("names") or ()
        task = f" --task {shlex.quote(str(tasks[0]))}" if tasks else ""
        about = f"{run}{task}{plugins}"
        if (record.facts.get("counts") or {}).get("conversations"):
            yield "talk with the model", f"lumina chat {about}"
        yield "continue a text", f"lumina generate {about} --prompt 'Once'"
        yield "measure it on other text", f"lumina evaluate {about} --data FILES"
    if longer is not None:
        yield longer[0], longer[1] + plugins
    yield "export it for transformers", f"lumina export {run} NEW_FOLDER{plugins}"
    yield (
        "begin another run with its weights",
        f"lumina train --init-from {run} --train-data FILES{plugins}",
    )
    yield "check its checkpoints", f"lumina checkpoints verify {run}"
    yield "write this page again", f"lumina runs report {run}"


def _solves_puzzles(record: Record) -> bool:
    return (record.spec.get("hrm") or {}).get("mode") == "puzzle"
