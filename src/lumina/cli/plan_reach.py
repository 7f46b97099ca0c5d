"""`lumina plan --fit` and `--tiers`: how long rows and how large batches can be."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from lumina.cli.text import table
from lumina.quantities import byte_size

if TYPE_CHECKING:
    from lumina.config import Config
    from lumina.plan.context_tiers import TierMemory
    from lumina.plan.environment import Environment


def show_reach(
    args: argparse.Namespace, config: Config, machine: Environment | None
) -> int:
    """Print how far the settings reach on a machine; nothing is trained.

    Args:
        args: of `lumina plan`.
        config: the settings.
        machine: to plan for; None: the present one.
    """
    settings, machine, vocab_size = _smallest(config, machine)
    found: dict[str, Any] = {"machine": machine.device_name}
    found["memory_bytes"] = machine.memory_bytes
    text = [f"{machine.device_name}, {byte_size(machine.memory_bytes)}"]
    world = config.processes
    if args.fit:
        facts = _reach(config, settings, machine, vocab_size, world)
        found |= facts
        text.append(_reach_text(facts))
    if args.tiers:
        from lumina.plan.context_tiers import tier_memories

        tiers = list(
            tier_memories(settings, machine, vocab_size=vocab_size, world_size=world)
        )
        found["tiers"] = [_tier_facts(one) for one in tiers]
        text.append(_tiers_text(tiers))
    print(json.dumps(found, indent=2) if args.json else "\n\n".join(text))
    return 0


def _smallest(
    config: Config, machine: Environment | None
) -> tuple[Config, Environment, int | None]:
    """The settings with what weights and data decide, the machine, the vocabulary.

    They are found with the smallest step there is, so that they are known where the
    step that is asked for has no room.
    """
    from lumina.config.provenance import Source
    from lumina.plan.reach import STEP
    from lumina.train import Trainer

    why = Source("flag", "the smallest step")
    least: dict[str, Any] = {"global_batch_size": config.processes}
    least |= {"batch_size": None, "seq_length": STEP, "tier": "none"}
    if config.model.pos_encodings == "learned":
        del least["seq_length"]
    trainer = Trainer(config.override(least, why))
    plan, environment, _ = trainer.explain(machine)
    asked = {name: config.get(name) for name in least}
    sources = config.provenance
    settings = trainer.planned
    for name, value in asked.items():
        settings = settings.override({name: value}, sources[name])
    return settings, environment, plan.spec.vocab_size


def _reach(
    config: Config,
    settings: Config,
    machine: Environment,
    vocab_size: int | None,
    world_size: int,
) -> dict[str, Any]:
    from lumina.plan.layout_choice import MEMORY_SHARE, smallest_estimate
    from lumina.plan.placing import placed, words_of
    from lumina.plan.reach import longest_row, most_rows
    from lumina.plan.shape import resolve_spec

    spec = resolve_spec(settings, vocab_size)
    least = smallest_estimate(settings, machine, spec, world_size)["bound"]
    room = int(machine.memory_bytes * MEMORY_SHARE)
    moved = ""
    if least > room:
        found = placed(settings, machine, vocab_size, world_size)
        moved = words_of(*found, machine) if found else ""
    longest = None
    if config.model.pos_encodings != "learned":
        longest = longest_row(
            settings, machine, vocab_size=vocab_size, world_size=world_size
        )
    most = most_rows(settings, machine, vocab_size=vocab_size, world_size=world_size)
    return {
        "fits": least <= room,
        "moved": moved,
        "least_bytes": least,
        "room_bytes": room,
        "seq_length": spec.seq_length,
        "global_batch_size": settings.train.global_batch_size,
        "longest_row": longest,
        "most_rows": most,
    }


def _reach_text(facts: dict[str, Any]) -> str:
    """The same in words."""
    least, room = byte_size(facts["least_bytes"]), byte_size(facts["room_bytes"])
    length = f"{facts['seq_length']:,}"
    fits = "yes" if facts["fits"] else "no"
    step = facts["global_batch_size"] or "as many as fit"
    longest = facts["longest_row"]
    rows = [
        (
            "fits",
            f"{fits}: rows of {length} tokens ({step} in a step) take at least {least} "
            f"of {room}",
        ),
        (
            "longest row",
            "as long as the table of positions"
            if longest is None
            else f"{longest:,} tokens, one row in a step, blocks recomputed",
        ),
        (
            "largest forward",
            f"{facts['most_rows']:,} rows of {length} tokens in one forward",
        ),
    ]
    if facts["moved"]:
        rows.insert(1, ("fits with", facts["moved"]))
    return table(("", ""), rows)


def _tier_facts(one: TierMemory) -> dict[str, Any]:
    return {
        "tier": one.tier.number,
        "context": one.tier.context,
        "target": one.tier.target,
        "tokens": one.tier.tokens,
        "fits": one.fits,
        "room_bytes": one.room,
        "largest": one.largest,
        "settings": one.settings,
        "moved": one.moved,
        "memory": one.bytes,
    }


def _tiers_text(tiers: list[TierMemory]) -> str:
    """A row for each tier, and which is the highest that fits."""
    rows = []
    for one in tiers:
        parts = sorted(
            ((name, size) for name, size in one.bytes.items() if name not in _SUMS),
            key=lambda part: -part[1],
        )
        most = ", ".join(
            f"{name.replace('_', ' ')} {byte_size(size)}" for name, size in parts[:3]
        )
        rows.append(
            [
                str(one.tier.number),
                f"{one.tier.context:,}",
                f"{one.tier.target:,}",
                f"{one.tier.tokens:,}",
                byte_size(one.bytes["bound"]),
                "yes" if one.fits else "no",
                most,
            ]
        )
    head = ("tier", "context", "target", "row", "bytes", "fits", "most of it")
    moved = [f"tier {one.tier.number} with {one.moved}" for one in tiers if one.moved]
    fitting = [one.tier.number for one in tiers if one.fits]
    highest = f"tier {max(fitting)}" if fitting else "none"
    return (
        table(head, rows, right="tier context target row bytes")
        + "".join(f"\n{line}" for line in moved)
        + f"\nhighest that fits: {highest}; {byte_size(tiers[0].room)} may be used"
    )


_SUMS = ("bound", "expected")
