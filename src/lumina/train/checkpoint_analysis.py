"""What a checkpoint is good for: its health, what made it, and what can use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lumina.assemble.assemble import check_fits
from lumina.assemble.state_parts import WITHOUT
from lumina.errors import LuminaError
from lumina.model.declared import logical_shapes
from lumina.plan.plan import Plan
from lumina.state.inspection import examined
from lumina.state.migration import FORMAT_VERSION, parse_version
from lumina.state.reader import CheckpointReader, open_checkpoint


def analysed(path: Path) -> dict[str, Any]:
    """A checkpoint after every byte was read and its model was built without memory.

    Returns:
        Plain JSON values: those of `examined`; metadata: kinds, created, step, tokens,
        model, optimizer, precision, processes; compatibility: format ("this version's",
        "older: ..." or "newer: ..."), generates and resumes, each None where it can, or
        why it cannot, and begins_anew, the parts that a resume resets.
    """
    found = examined(path)
    try:
        with open_checkpoint(path, verify="size") as reader:
            manifest, meta = reader.manifest, reader.meta
            found["metadata"] = {
                "kinds": list(manifest.kinds),
                "created": manifest.created,
                "tokens": meta.counters.get("tokens"),
                "preset": meta.config.get("preset"),
                "optimizer": meta.plan.get("optimizer"),
                "precision": meta.plan.get("compute_dtype"),
                "processes": meta.plan.get("world_size"),
                "settings": len(meta.config),
            }
            problem = found["problem"]
            builds = problem or _cannot_build(meta.plan, reader)
            found["compatibility"] = {
                "format": _format(str(manifest.raw["format_version"])),
                "generates": builds,
                "resumes": builds,
                "begins_anew": list(meta.extra.get(WITHOUT, ())),
            }
    except LuminaError as error:
        found["problem"] = found["problem"] or error.message
    return found


def _cannot_build(plan: dict[str, Any], reader: CheckpointReader) -> str | None:
    """Why this version cannot build the model of a checkpoint; None where it can."""
    try:
        read = Plan.from_dict(plan)
        check_fits(read, reader)
        reader.check_architecture(logical_shapes(read.spec))
    except LuminaError as error:
        return error.message
    return None


def _format(version: str) -> str:
    found, present = parse_version(version), parse_version(FORMAT_VERSION)
    if found == present:
        return f"{version}, this version's"
    if found[0] < present[0]:
        return f"{version}, older, and brought up to {FORMAT_VERSION} as it is read"
    return f"{version}, with additions to {FORMAT_VERSION} that are kept"
