"""A cell: features and options that one short training has, and its reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lumina.config.sections import LEAVES
from lumina.features import (
    FEATURES,
    REDRAWN,
    ROUNDING,
    Tolerance,
    Trial,
    active_features,
)
from lumina.train.matrix.setting import PLAIN, RUN, SHAPE_SECTIONS


@dataclass(frozen=True)
class Cell:
    """What is tried together.

    Attributes:
        features: names, in the order of the table.
        options: further leaves of the configuration; the reference has them as well.
        switched: leaves of its run alone; the numbers have to stay as they are.
        needs: what it needs and Lumina or this system has not, in words; or "".
        name: of a named cell, such as "MTX-01"; empty: its features name it.
        settles: the question that a named cell answers.
    """

    features: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    switched: dict[str, Any] = field(default_factory=dict)
    needs: str = ""
    name: str = ""
    settles: str = ""

    @property
    def label(self) -> str:
        """What the cell is called."""
        return self.name or " + ".join(self.features) or "reference"

    @property
    def leaves(self) -> dict[str, Any]:
        """The configuration of its run, with the places of files not filled in."""
        return {**_run(self.features, self._settled), **self.switched}

    @property
    def _settled(self) -> dict[str, Any]:
        """The options of both runs, and what stops draws that could not be the same."""
        if not any(trial_of(name).redraws for name in self.features):
            return self.options
        undrawn = [trial_of(name).undrawn for name in self.features]
        return {k: v for one in undrawn for k, v in one.items()} | self.options

    @property
    def reference(self) -> dict[str, Any]:
        """The same of the run that it is compared with.

        What keeps the numbers is left out; what changes them is on in both. What
        rounds its weights once may say what makes the reference begin with them so.
        """
        changing = [name for name in self.features if not trial_of(name).keeps]
        keeping = [trial_of(name) for name in self.features if trial_of(name).keeps]
        # What another feature switches is that one's, and is off in the reference.
        settled = {*leaves_of(changing), *self._settled}
        settled = settled.union(*(one.options for one in keeping))
        leaves = _run(changing, self._settled)
        for one in keeping:
            leaves |= {k: v for k, v in one.beside.items() if k not in settled}
        for one in keeping:  # where no other feature has set the same option otherwise
            beside = one.leaves
            leaves |= {
                k: v for k, v in one.reference.items() if leaves.get(k) == beside.get(k)
            }
        if any(trial_of(name).by_forward for name in self.features):
            shared = self.ranks // self.reference_ranks
            leaves["batch_size"] = max(leaves["batch_size"] // shared, 1)
        return {**leaves, **PLAIN}

    @property
    def reference_ranks(self) -> int:
        """Processes of the reference: one, where they all compute the same together.

        Copies that learn apart are compared with as many that do.
        """
        changing = [name for name in self.features if not trial_of(name).keeps]
        return max((trial_of(name).ranks for name in changing), default=1)

    def without(self, name: str) -> Cell:
        """The cell without a feature that changes numbers: its reference differs."""
        rest = tuple(one for one in self.features if one != name)
        return Cell(rest, {**trial_of(name).beside, **self.options})

    @property
    def tolerance(self) -> Tolerance:
        """How far it may be from its reference."""
        found = ROUNDING
        trials = [trial_of(name) for name in self.features]
        causes = {  # two features that round alike round once
            trial.rounds or name: trial.tolerance
            for name, trial in zip(self.features, trials, strict=True)
            if trial.keeps
        }
        found = sum(causes.values(), start=found)
        leaves = self.leaves.items()
        draws = [
            one
            for one in trials
            if one.draws and not (one.undrawn and one.undrawn.items() <= leaves)
        ]
        if draws and any(one.redraws for one in trials):
            found += REDRAWN
        return found

    @property
    def ranks(self) -> int:
        """Processes that it needs."""
        return max((trial_of(name).ranks for name in self.features), default=1)

    @property
    def devices(self) -> set[str]:
        """Kinds of device that can run it; empty: any."""
        kinds = [set(trial_of(n).devices) for n in self.features if trial_of(n).devices]
        return set.intersection(*kinds) if kinds else set()


def trial_of(name: str) -> Trial:
    """How a feature is tried."""
    trial = FEATURES[name].trial
    assert trial is not None, name
    return trial


def tried_features() -> list[str]:
    """The features that say how they are tried, in the order of the table."""
    import lumina.parallel.ways  # noqa: F401 - its ways register their features

    return [name for name, one in FEATURES.items() if one.trial is not None]


def idle_features(plan: Any) -> dict[str, str]:
    """Features of a Plan for which it has nothing to do -> why."""
    found = {}
    for name in active_features(FEATURES, plan):
        trial = FEATURES[name].trial
        if trial is not None and trial.idle is not None and (why := trial.idle(plan)):
            found[name] = why
    return found


def told_idle(idle: Mapping[str, str]) -> str:
    """The same in words."""
    return "; ".join(f"{name}: {why}" for name, why in idle.items())


def leaves_of(features: Sequence[str]) -> dict[str, Any]:
    """The options of several features together."""
    found: dict[str, Any] = {}
    for name in features:
        found |= trial_of(name).beside
    for name in features:
        found |= trial_of(name).options
    return found


def clash(features: Sequence[str]) -> str | None:
    """An option to which two of the features give different values, or None.

    What a feature has beside it gives way to what another one switches.
    """
    switched: dict[str, Any] = {}
    beside: dict[str, Any] = {}
    for name in features:
        for leaf, value in trial_of(name).options.items():
            if switched.setdefault(leaf, value) != value:
                return leaf
    for name in features:
        for leaf, value in trial_of(name).beside.items():
            if leaf not in switched and beside.setdefault(leaf, value) != value:
                return leaf
    return None


def shape_of(leaves: dict[str, Any]) -> dict[str, Any]:
    """Those options of a run that say what its model is, beyond the usual one."""
    return {
        leaf: value for leaf, value in leaves.items() if LEAVES[leaf] in SHAPE_SECTIONS
    }


def _run(features: Sequence[str], options: dict[str, Any]) -> dict[str, Any]:
    return {**RUN, **leaves_of(features), **options}
