"""`lumina checkpoints analyze`: health, metadata and compatibility."""

from __future__ import annotations

import argparse
import json
from typing import Any

SUMMARY = "what checkpoints are good for: health, metadata, compatibility"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="runs, or checkpoints of runs"
    )
    parser.add_argument(
        "--plugins",
        nargs="+",
        metavar="FILE",
        default=[],
        help="code that registers the parts of a model; it is run",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print what was found; 1 where a checkpoint cannot be used."""
    from lumina.model.registry import load_plugins
    from lumina.state.inspection import checkpoints_at
    from lumina.train.checkpoint_analysis import analysed

    load_plugins(args.plugins)
    found = []
    for path in checkpoints_at(args.paths):
        one = analysed(path)
        found.append(one)
        if not args.json:
            print(_shown(one), flush=True)
    if args.json:
        print(json.dumps(found, indent=2))
    return int(any(_is_useless(one) for one in found))


def _is_useless(one: dict[str, Any]) -> bool:
    able = one.get("compatibility", {})
    return bool(one["problem"] or able.get("generates") or able.get("resumes"))


def _shown(one: dict[str, Any]) -> str:
    import time

    from lumina.quantities import byte_size, count

    if "compatibility" not in one:
        return f"{one['path']}\n  health         {one['problem']}"
    meta, able = one["metadata"], one["compatibility"]
    written = time.strftime("%Y-%m-%d %H:%M", time.localtime(meta["created"]))
    able_to = "yes" if able["resumes"] is None else f"no: {able['resumes']}"
    if able["resumes"] is None and able["begins_anew"]:
        able_to = f"yes; {', '.join(able['begins_anew'])} are reset"
    generates = "yes" if able["generates"] is None else f"no: {able['generates']}"
    good = f"good, {byte_size(one['bytes'])}" if not one["problem"] else one["problem"]
    rows = {
        "health": good,
        "written": f"{written} as {', '.join(meta['kinds'])}, after step "
        f"{one['step']:,} and {count(meta['tokens'])} tokens",
        "made with": f"preset {meta['preset'] or 'none'}, {meta['optimizer']}, "
        f"{meta['precision']}, {meta['processes']} processes",
        "format": able["format"],
        "can generate": generates,
        "can go on": able_to,
    }
    return "\n".join([one["path"], *(f"  {name:<14} {t}" for name, t in rows.items())])
