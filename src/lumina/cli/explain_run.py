"""What `lumina explain RUN` prints: every decision of a run, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina.quantities import counted

if TYPE_CHECKING:
    from lumina.state.decisions_made import Made


ONCE_MORE = "from here on it takes steps a second time"


def facts_of(path: Path) -> dict[str, Any]:
    """The decisions of a run, and those that it would have made in shadow mode.

    Args:
        path: the run.

    Raises:
        LuminaError: E104 for a missing file, E101 for a broken one.
    """
    from lumina.state.decisions_made import decisions_made
    from lumina.state.earlier_plans import plans_of
    from lumina.state.events import read_events
    from lumina.state.liveness import state_of
    from lumina.state.run_directory import RunDirectory

    run = RunDirectory(path)
    plan = plans_of(run)[-1][1]
    mode = (plan.get("orchestrator") or {}).get("mode", "off")
    events = read_events(path)
    made = decisions_made(events)
    if mode == "off":
        from lumina.train.replaying.shadow import would_have_decided

        made = would_have_decided(run)
    return {
        "run": str(path),
        "adaptive": mode,
        "experience": (plan.get("reasons") or {}).get("experience"),
        "failed": _failure(events) if state_of(path) == "failed" else None,
        "decisions": [{**vars(one), "phase": one.phase} for one in made],
        "without": {
            event["data"]["number"]: event["message"]
            for event in events
            if event.get("kind") == "counterfactual"
        },
        "made": made,
    }


def in_words(facts: Mapping[str, Any]) -> str:
    """The same as text."""
    made: list[Made] = facts["made"]
    mode = facts["adaptive"]
    count = counted(len(made), "decision")
    head = {
        "off": "adaptive was off: nothing was decided. In shadow mode, "
        f"{count} would have been recorded for these losses",
        "shadow": f"adaptive was shadow: {count} recorded, and none was carried out",
        "on": f"adaptive was on: {count}",
    }[mode]
    lines = [f"{facts['run']}: {head}"]
    if facts["failed"]:
        lines.append(_failed(facts["failed"]))
    if facts["experience"]:
        lines.append(f"experience: {facts['experience']}")
    lines += _in_short(made, mode)
    verdicts = [_verdict(one) for one in made if one.verdict and not one.undone]
    if verdicts:
        listed = ", ".join(
            f"{verdicts.count(name)} {name}" for name in dict.fromkeys(verdicts)
        )
        lines.append(f"outcomes: {listed}")
    before = 0
    for one in made:
        if one.step < before and not one.undone:
            lines += ["", f"(the run had gone back; {ONCE_MORE})"]
        before = one.step
        lines += ["", *_lines(one, mode)]
        if one.number in facts["without"] and mode == "on" and not one.undone:
            lines.append(f"  without it  {facts['without'][one.number]}")
    lines += _glossary(made)
    return "\n".join(map(_printable, lines))


def _failure(events: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What ended the run last, and the rank that it began on, where that is known."""
    for event in reversed(events):
        if event.get("kind") == "run_failed":
            facts = {name: event.get(name) for name in ("step", "code", "message")}
            return facts | {"rank": (event.get("data") or {}).get("rank")}
    return None


def _failed(facts: Mapping[str, Any]) -> str:
    where = "" if facts["step"] is None else f" at step {facts['step']:,}"
    more = f" (more: `lumina explain {facts['code']}`)" if facts["code"] else ""
    return f"failed{where}: {facts['message']}{more}"


def _in_short(made: list[Made], mode: str) -> list[str]:
    """The changes, a line each, and how many findings were left alone."""
    kept = [one for one in made if not one.undone]
    changes = [one for one in kept if one.control or one.action != "nothing"]
    left = len(kept) - len(changes)
    how_many = counted(len(changes), "change") if changes else "no change"
    would = "would have been" if mode != "on" else "was" if len(changes) < 2 else "were"
    if not kept:
        return ["in short: nothing was found that asks for a change"]
    lines = [
        f"in short: {how_many} {would} made"
        + (f", and {counted(left, 'finding')} watched and left alone" if left else "")
    ]
    before = 0
    for one in changes:
        if one.step < before:
            lines.append(f"  (the run had gone back; {ONCE_MORE})")
        before = one.step
        after = f"; afterwards: {one.verdict}" if one.verdict else ""
        lines.append(f"  step {one.step:,}: {one.reason}{after}")
    return lines


def _glossary(made: list[Made]) -> list[str]:
    """What the names above mean."""
    from lumina.train.orchestrator.meaning import meanings

    used = {name for one in made for name in (one.anomaly, one.action, one.verdict)}
    found = meanings(sorted(used - {""}))
    if not found:
        return []
    width = max(map(len, found))
    words = [f"  {name:<{width}}  {text}" for name, text in found.items()]
    return ["", "what these words mean", *words]


def _printable(line: str) -> str:
    """A line that cannot steer the terminal it is printed on."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)


def _lines(made: Made, mode: str) -> list[str]:
    from lumina.train.orchestrator.meaning import LEVELS

    phase = f" ({made.phase.lower()})" if made.phase else ""
    lines = [f"step {made.step:,}{phase}: {made.anomaly or 'no anomaly'}"]
    seen = ", ".join(
        f"{key.replace('_', ' ')} {_value(value)}"
        for key, value in made.evidence.items()
        if key != "phase"
    )
    if seen:
        lines.append(f"  seen        {seen}")
    would = mode != "on" or made.mode == "shadow"
    what = made.action if made.action != "nothing" else "nothing, on purpose"
    if made.control and isinstance(made.new, Mapping):
        what += _details(made.new)
    elif made.control:
        before = "" if made.old is None else f"{_value(made.old)} -> "
        what += f": {made.control} {before}{_value(made.new)}"
    if made.level:
        what += f" (level {made.level}, {LEVELS.get(made.level, 'of a plug-in')})"
    lines.append(f"  {'would do' if would else 'done':<12}{what}")
    lines.append(f"  why         {made.reason}")
    lines.append(f"  how sure    {made.confidence:.2f}")
    after = "not measured"
    if made.verdict:
        after = _verdict(made) + (f": {made.text}" if made.text else "")
        if made.outcome_step is not None:
            after += f" (known in step {made.outcome_step:,})"
    lines.append(f"  afterwards  {after}")
    if made.undone:
        lines.append("  undone      a resume went on from before it")
    return lines


def _verdict(made: Made) -> str:
    """What came of a decision, in a word; of one to change nothing, what was seen."""
    quiet = made.action == "nothing" and made.verdict == "better"
    return "left alone and quiet" if quiet else made.verdict


def _details(value: Mapping[str, Any]) -> str:
    """The parts of a change that has several; texts among them repeat its reason."""
    parts = [
        f"{name.replace('_', ' ')}: {_value(part)}"
        for name, part in value.items()
        if not isinstance(part, str)
    ]
    return f", with {'; '.join(parts)}" if parts else ""


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k.replace('_', ' ')} {_value(v)}" for k, v in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return "unknown" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
