"""What leaves the device where a row has no room: states, weights, inputs of blocks.

Of the places that make room, the one is taken that costs the least time on the link.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from lumina.config.provenance import Source
from lumina.errors import LuminaError
from lumina.plan.decisions import asked_for
from lumina.plan.elsewhere import in_words
from lumina.plan.environment import Environment
from lumina.plan.figures import layout_of
from lumina.plan.layout_choice import MEMORY_SHARE
from lumina.plan.link import SAME, Link, crossings, link_of, link_time
from lumina.plan.make import make_plan
from lumina.plan.plan import Plan
from lumina.plan.time_estimate import estimate_time

if TYPE_CHECKING:
    from lumina.config import Config

BESIDE = ("host", "disk")
UNKNOWN = Link(25e9, "", SAME)
"""A link to compare places by, where its rate is not known."""

TRIED = Source("decided", "tried by the planner")


def ways_to_place(config: Config) -> Iterator[dict[str, str]]:
    """Options that leave the device less to hold, as far as none of them is named.

    Frozen weights leave alone; those that train leave only with the optimizer's states.
    """
    frozen = config.adapters.use_peft or bool(config.train.freeze)
    names = ("weights_in",) if frozen else ("optimizer_states_in", "weights_in")
    if any(asked_for(config, name) for name in names):
        return
    for place in BESIDE:
        if not frozen:
            yield {"optimizer_states_in": place}
        for other in (place,) if frozen else BESIDE:
            yield {name: place for name in names} | {"weights_in": other}


def with_inputs(config: Config, ways: list[dict[str, str]]) -> list[dict[str, str]]:
    """The same with the inputs of blocks in host memory, and these alone."""
    if asked_for(config, "activations_in"):
        return []
    return [way | {"activations_in": "host"} for way in ({}, *ways)]


def placed(
    config: Config, machine: Environment, vocab_size: int | None, world_size: int
) -> tuple[dict[str, str], Plan] | None:
    """What to move and the Plan with it, so that a run fits; None: nothing helps.

    Args:
        config: the settings, with which a run has no room.
        machine: what trains; only a CUDA device has other memory beside it.
        vocab_size: tokens of the tokenizer; None: the settings say it.
        world_size: processes; several of them share weights in ways of their own.
    """
    if machine.device != "cuda" or world_size > 1:
        return None
    if config.train.steps is None:
        config = config.override({"steps": 1}, TRIED)
    ways = list(ways_to_place(config))
    # Inputs of blocks leave where the rest was not enough: they come back each step.
    return _cheapest(ways, config, machine, vocab_size) or _cheapest(
        with_inputs(config, ways), config, machine, vocab_size
    )


def _cheapest(
    ways: list[dict[str, str]],
    config: Config,
    machine: Environment,
    vocab_size: int | None,
) -> tuple[dict[str, str], Plan] | None:
    """Of those that fit, what takes the least time on the link."""
    rate = link_of(machine) or UNKNOWN
    found: list[tuple[float, int, dict[str, str], Plan]] = []
    for number, settings in enumerate(ways):
        try:
            plan = make_plan(
                config.override(settings, TRIED),
                machine,
                tokenizer_vocab_size=vocab_size,
                rows_per_epoch=None,
                eval_rows=0,
            )
        except LuminaError:  # it does not go together, or has no room there either
            continue
        if plan.memory["bound"] > MEMORY_SHARE * machine.memory_bytes:
            continue
        took = link_time(plan, crossings(plan.spec, layout_of(plan)), rate)
        found.append((took.beside + took.after, number, settings, plan))
    if not found:
        return None
    _, _, settings, plan = min(found, key=lambda one: one[:2])
    return settings, plan


def words_of(settings: dict[str, str], plan: Plan, machine: Environment) -> str:
    """What is moved, how many bytes, and what they cost of a step."""
    options = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in settings.items())
    took = link_time(plan, crossings(plan.spec, layout_of(plan)), link_of(machine))
    cost = took.why
    if took.bytes:
        cost = f"{took.beside + took.after:.3g} s of a step on the link"
        time = estimate_time(plan, machine)
        if time is not None:
            cost = f"a step about {time.likely:.3g} s; {cost}, partly hidden"
    return f"{options} ({in_words(plan.elsewhere)}; {cost})"
