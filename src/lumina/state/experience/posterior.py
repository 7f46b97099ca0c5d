"""From outcomes to the counts that a Plan holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from lumina.plan.experience import ANY, LEAST, context_of, key_of
from lumina.state.experience.records import OutcomeRecord

MOST_OF_ONE_RUN = 10
"""Outcomes of one key that one run adds: no single run outweighs the others."""

MOST_KEYS = 400
"""Counts that a Plan holds; those with the most outcomes are taken."""


def succeeded(outcome: OutcomeRecord) -> bool | None:
    """Whether an outcome speaks for its action; None where it says nothing.

    An action without an effect speaks against it: it cost its risk. What was only
    decided and not done (mode "shadow") says nothing about the action.
    """
    if outcome.mode != "on" or outcome.verdict == "unclear":
        return None
    return outcome.verdict == "better"


def counts_for(
    kind: str, outcomes: Iterable[OutcomeRecord]
) -> tuple[dict[str, list[int]], list[str]]:
    """The counts that concern a kind of run, with at least `LEAST` outcomes each.

    Args:
        kind: of the run that is going to begin.
        outcomes: all that are known, of each run in the order of their numbers.

    Returns:
        ANOMALY/CONTEXT/ACTION -> [successes, failures], and the ids of the runs that
        they come from.
    """
    counts: dict[str, list[int]] = {}
    taken: Counter[tuple[str, str]] = Counter()
    sources: dict[str, set[str]] = {}
    for outcome in outcomes:
        good = succeeded(outcome)
        if good is None:
            continue
        contexts = [context_of(ANY, ANY)]
        if outcome.context.rpartition(":")[0] == kind:
            contexts += [context_of(kind, ANY), outcome.context]
        for context in dict.fromkeys(contexts):
            key = key_of(outcome.anomaly, context, outcome.action)
            if taken[outcome.run, key] >= MOST_OF_ONE_RUN:
                continue
            taken[outcome.run, key] += 1
            counts.setdefault(key, [0, 0])[0 if good else 1] += 1
            sources.setdefault(key, set()).add(outcome.run)
    kept = [key for key, seen in counts.items() if sum(seen) >= LEAST]
    kept.sort(key=lambda key: (-sum(counts[key]), key))
    kept = sorted(kept[:MOST_KEYS])
    runs = set().union(*(sources[key] for key in kept)) if kept else set()
    return {key: counts[key] for key in kept}, sorted(runs)
