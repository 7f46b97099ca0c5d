"""What a person sees when a run begins or goes on."""

from __future__ import annotations

from typing import Any

from lumina.config.phase_entries import names_in_words
from lumina.data.long_conversations import long_in_words
from lumina.train.preparation import Preparation
from lumina.train.profiling.data import threads_for


def live_facts(prepared: Preparation) -> dict[str, str]:
    """Figures of the live block that stay as they are."""
    asked = prepared.config
    facts = {"workers": str(threads_for(asked.system.num_workers))}
    stats = prepared.data.stats
    if loading := stats.get("loading"):
        facts["data"] = str(loading).split()[0]
        if facts["data"] == "sharded":
            size = asked.loading.shard_size_mb
            facts["shard"] = f"{size:,} MB" if size else "all at once"
    if "cache" in stats:
        facts["cache"] = str(stats["cache"])
    return facts


def banner_facts(prepared: Preparation) -> dict[str, Any]:
    """What the data is, and where in its phases the run stands."""
    stats, stream = prepared.data.stats, prepared.stream
    shown = ("documents", "conversations", "skipped", "train_tokens", "eval_tokens")
    facts: dict[str, Any] = {}
    if prepared.config.data.data_kind:
        facts["of kind"] = prepared.kind.name
    if "documents" in stats:
        facts |= {key: stats.get(key, 0) for key in shown}
    else:  # a plug-in's kind, which counts what it likes
        facts |= stats
    facts |= prepared.data.facts(prepared.config)
    if prepared.phases:
        here = f"phase {prepared.place.index + 1} of {len(prepared.phases)}"
        facts["phases"] = f"{here}, {prepared.plan.phase}, begins after step " + (
            f"{prepared.plan.phase_begin:,}: {names_in_words(prepared.phases)}"
        )
    if stream.order.rows_per_epoch is None:
        facts["rows"] = "unknown"
    if loading := stats.get("loading"):
        facts["loading"] = loading
    if long := stats.get("long_conversations"):
        facts["long"] = long_in_words(long)
    used = stream.utilisation
    if used is not None:
        facts["packing"] = f"{used:.1%} of positions used"
    return facts
