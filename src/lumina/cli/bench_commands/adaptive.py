"""`lumina bench adaptive`: is a run that adapts better than a competent one?"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lumina.measure.adaptive.suite import Suite

SUMMARY = "a fair benchmark of adaptive training: generate, tune, run, score"

STEPS = ("generate", "tune", "run", "score")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "what",
        choices=STEPS,
        help="generate: write the scenarios; tune: find the rates of the competent arm "
        "on the development half; run: train an arm's scenarios, those that are not "
        "done yet; score: print what came out",
    )
    parser.add_argument(
        "--out", default="bench-adaptive", metavar="DIR",
        help="the folder of scenarios and results (default bench-adaptive)",
    )  # fmt: skip
    parser.add_argument(
        "--text", metavar="FILE", help="generate: a text to train on; default: invented"
    )
    parser.add_argument(
        "--half", default="development", metavar="HALF",
        help="development (the default) or held-out",
    )  # fmt: skip
    parser.add_argument("--arm", metavar="NAME", help="run: which arm")
    parser.add_argument(
        "--trainer", default="lumina", metavar="NAME",
        help="lumina (the default) or transformers",
    )  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=1, metavar="N",
        help="runs at a time, each on one core (default 1)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N",
        help=(
            "run: only this many scenarios, with the same shares; 0 (the default): all"
        ),
    )  # fmt: skip
    parser.add_argument(
        "--families", nargs="+", default=[], metavar="NAME",
        help="run: only scenarios of these families, such as rate_too_high",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, default=60.0, metavar="X",
        help="tune, run: most seconds of an attempt (default 60)",
    )  # fmt: skip
    parser.add_argument(
        "--tuned", metavar="FILE",
        help="tune: where the rates go (default DIR/competent.json); run: rates to use "
        "in place of the committed ones",
    )  # fmt: skip
    parser.add_argument(
        "--once", action="store_true",
        help="run: the held-out half, which is run once for each arm",
    )  # fmt: skip
    parser.add_argument("--plots", metavar="DIR", help="score: where SVG files go, too")
    parser.add_argument(
        "--by-family", action="store_true", help="score: a line for each family, too"
    )
    parser.add_argument("--json", metavar="FILE", help="score: write the figures, too")


def run(args: argparse.Namespace) -> int:
    """Do one step of the benchmark."""
    from pathlib import Path

    from lumina.cli.profiling import at_least
    from lumina.errors import LuminaError
    from lumina.measure.adaptive.arms import arm_named
    from lumina.measure.adaptive.suite import Suite

    folder = Path(args.out)
    suite = Suite(folder)
    at_least("jobs", args.jobs, 1)
    at_least("limit", args.limit, 0)

    def tell(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    if args.what == "generate":
        facts = suite.generate(Path(args.text) if args.text else None)
        for name, value in facts.items():
            print(f"{name:<22} {value}")
        return 0
    if args.what == "score":
        return _score(suite, args)

    if args.what == "run" and not args.arm:
        raise LuminaError("E005", "run needs an arm", "add --arm competent")
    arm = arm_named(args.arm or "competent")

    from lumina.train.adaptive_bench.adapters import adapter_named

    adapter = adapter_named(args.trainer)
    if args.what == "tune":
        to = Path(args.tuned) if args.tuned else folder / "competent.json"
        print(
            suite.tune(adapter, to, parallel=args.jobs, tell=tell, seconds=args.seconds)
        )
        return 0
    failed = suite.run(
        adapter,
        arm,
        args.half,
        parallel=args.jobs,
        tell=tell,
        limit=args.limit,
        families=args.families,
        once=args.once,
        seconds=args.seconds,
        found=Path(args.tuned) if args.tuned else None,
    )
    return int(failed > 0)


def _score(suite: Suite, args: argparse.Namespace) -> int:
    import json
    from pathlib import Path

    from lumina.errors import LuminaError
    from lumina.measure.adaptive import page
    from lumina.measure.adaptive.arms import arm_named
    from lumina.measure.adaptive.population import sample
    from lumina.measure.adaptive.scoring import COMPARED, groups, score

    rows = suite.rows(args.half, args.trainer)
    if COMPARED not in rows:
        raise LuminaError(
            "E101",
            f"the {COMPARED} arm has no results in {args.out}",
            f"run `lumina bench adaptive run --arm {COMPARED} --half {args.half}`",
        )
    scenarios = suite.scenarios(args.half)
    scores = []
    for arm, some in rows.items():
        meant = scenarios if arm_named(arm).every else sample(scenarios)
        found_groups = groups(meant, families=args.by_family, competent=rows[COMPARED])
        for group, members in found_groups.items():
            if found := score(arm, group, members, some, rows[COMPARED]):
                scores.append(found)
    print(page.table(scores))
    for arm in rows:
        if arm_named(arm).settings.get("adaptive") == "on":
            print(f"\n{arm}\n\n{page.goals_table(scores, arm)}")
    if args.plots:
        Path(args.plots).mkdir(parents=True, exist_ok=True)
        for name, text in page.plots(scenarios, rows).items():
            (Path(args.plots) / name).write_text(text)
    if args.json:
        text = json.dumps(page.as_json(scores), indent=1, allow_nan=False)
        Path(args.json).write_text(text + "\n")
    return 0
