"""The public names of the guard: `SafeOptimizations` and `PretestHook`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lumina.errors import LuminaError
from lumina.features import FEATURES, find_feature
from lumina.guard import pretest_logs
from lumina.guard.identity import difference, identity
from lumina.guard.judge import Verdict
from lumina.guard.levers import TIMEOUT, levers_of, pretest_levers, used
from lumina.plan.environment import Environment, probe
from lumina.plan.plan import Plan

if TYPE_CHECKING:
    from lumina.config import Config


class PretestHook:
    """Runs pretests where something changed, and keeps their history.

    Args:
        timeout: seconds that the pretest of one optimisation may take.
    """

    def __init__(self, timeout: float = TIMEOUT) -> None:
        self.timeout = timeout

    def why(self, plan: Plan, lever: str, fingerprint: str = "") -> str:
        """Why a lever has to be tried now; "" where the newest result holds.

        Args:
            plan: of the run, with the lever.
            lever: its name.
            fingerprint: of the weights; "" for initial ones.
        """
        now = identity(plan, lever, probe(plan.device), fingerprint)
        size = pretest_logs.size_name(plan.parameters)
        known = [x for x in pretest_logs.entries() if x.get("lever") == lever]
        of_size = [x for x in known if x.get("model_size") == size]
        if not known:
            return "it was not tried here before"
        if not of_size:
            return "another model size"
        changes = [difference(x.get("identity", {}), now) for x in of_size]
        return "" if "" in changes else changes[-1]

    def passed(self, plan: Plan, lever: str) -> bool:
        """Whether the newest result of a lever for models of this size is a pass."""
        size = pretest_logs.size_name(plan.parameters)
        found = [x for x in pretest_logs.entries(size) if x.get("lever") == lever]
        return bool(found) and found[-1].get("status") == "PASS"

    def run(
        self,
        plan: Plan,
        levers: Sequence[str] | None = None,
        *,
        checkpoint: str = "",
        fingerprint: str = "",
        background: bool = False,
    ) -> dict[str, Verdict]:
        """Try levers of a Plan that changed, take the others from what is known.

        Args:
            plan: of the run, with the levers on.
            levers: their names; None: all that it has.
            checkpoint: a folder with weights; "" for initial ones.
            fingerprint: of these weights.
            background: give way to other processes.
        """
        names = levers_of(plan) if levers is None else tuple(levers)
        changed = [self.why(plan, name, fingerprint) for name in names]
        return pretest_levers(
            plan,
            probe(plan.device),
            names,
            checkpoint=checkpoint,
            fingerprint=fingerprint,
            timeout=self.timeout,
            background=background,
            why="; ".join(dict.fromkeys(filter(None, changed))) or "asked for",
        )

    def run_pretests_for_checkpoint(
        self, path: str | Path, model_size: str | None = None
    ) -> dict[str, Verdict]:
        """Try the levers of a run with the weights of one of its checkpoints.

        Args:
            path: a run, or a checkpoint of it.
            model_size: what the checkpoint is expected to be, such as "124M"; None:
                anything.

        Raises:
            LuminaError: E303 for what is no checkpoint, E005 for one of another size.
        """
        from lumina.state.reader import latest_good, open_checkpoint

        folder = Path(path)
        if (folder / "checkpoints").is_dir():
            found = latest_good(folder)
            if found is None:
                raise LuminaError(
                    "E303",
                    f"{folder} has no checkpoint that is whole",
                    "name a run that was saved, or a checkpoint of it",
                )
            folder = found
        with open_checkpoint(folder) as reader:
            plan = Plan.from_dict(reader.meta.plan)
        size = pretest_logs.size_name(plan.parameters)
        if model_size not in (None, size):
            raise LuminaError(
                "E005",
                f"{folder} is a model of {size} parameters, not of {model_size}",
                f"leave the size out, or write {size}",
            )
        mark = f"{folder.resolve()} of {(folder / 'manifest.json').stat().st_mtime_ns}"
        return self.run(plan, checkpoint=str(folder), fingerprint=mark)

    def get_history(self, model_size: str | None = None) -> list[dict[str, Any]]:
        """Every verdict on this machine, the newest last.

        Args:
            model_size: of models of this size alone, such as "124M".
        """
        return pretest_logs.entries(model_size)

    def get_summary(self) -> dict[str, dict[str, Any]]:
        """The validation matrix: lever, size and architecture -> the newest verdict.

        The keys are "LEVER SIZE ARCHITECTURE"; the values have `lever`, `model_size`,
        `architecture`, `status` (PASS or FAIL; what was not tried has no entry),
        `tries`, `failures`, `date`, `device` and `text`.
        """
        found: dict[str, dict[str, Any]] = {}
        for one in pretest_logs.entries():
            names = ("lever", "model_size", "architecture")
            key = " ".join(str(one[name]) for name in names)
            before = found.get(key, {"tries": 0, "failures": 0})
            shown = {name: one[name] for name in (*names, "status", "date", "text")}
            found[key] = shown | {
                "device": one["identity"]["device"],
                "tries": before["tries"] + 1,
                "failures": before["failures"] + (one["status"] == "FAIL"),
            }
        return dict(sorted(found.items()))

    def print_summary(self) -> None:
        """Print the matrix, a line for each entry."""
        for one in self.get_summary().values():
            print(
                f"{one['lever']:24} {one['model_size']:>6} {one['architecture']:8} "
                f"{one['status']:4} {one['failures']} of {one['tries']} failed, "
                f"{one['date']}, {one['device']}: {one['text']}"
            )
        if not pretest_logs.entries():
            print("no optimisation was tried here yet")


class SafeOptimizations:
    """The optimisations of a run: which it has, what was proven, what is used.

    Args:
        config: of the run; its optimisations are those that its plan would have.
        hook: runs the pretests and keeps their history.
    """

    def __init__(self, config: Config, hook: PretestHook | None = None) -> None:
        from lumina.plan.make import make_plan

        if config.train.steps is None:
            config = config.replace(steps=1)
        self.hook = hook or PretestHook()
        self.machine: Environment = probe(config)
        self.plan = make_plan(
            config,
            self.machine,
            tokenizer_vocab_size=None,
            rows_per_epoch=None,
            world_size=1,
        )
        self.verdicts: dict[str, Verdict] = {}

    def pretest(self, *levers: str) -> dict[str, Verdict]:
        """Try the optimisations of the plan, each in a process of its own.

        Args:
            levers: names of some of them; none: all.

        Raises:
            LuminaError: E005 for a name that the plan does not have as an optimisation.
        """
        for name in levers:
            if find_feature(name).name not in levers_of(self.plan):
                raise LuminaError(
                    "E005",
                    f"{name} is no optimisation that this run would have",
                    f"it would have {', '.join(levers_of(self.plan)) or 'none'}",
                )
        names = [find_feature(name).name for name in levers] or None
        self.verdicts |= self.hook.run(self.plan, names)
        return dict(self.verdicts)

    def status(self) -> dict[str, str]:
        """Optimisation -> ENABLED, DISABLED, EXPERIMENTAL (not tried) or N/A."""
        on, may = levers_of(self.plan), used(self.verdicts)
        found = {}
        for name, feature in FEATURES.items():
            if not feature.claim:
                continue
            if name in on:
                tried = name in self.verdicts
                enabled = "ENABLED" if name in may else "DISABLED"
                found[name] = enabled if tried else "EXPERIMENTAL"
            else:
                found[name] = "N/A" if feature.problem(self.machine) else "DISABLED"
        return found

    def get_history(self, model_size: str | None = None) -> list[dict[str, Any]]:
        """As `PretestHook.get_history`."""
        return self.hook.get_history(model_size)

    def get_summary(self) -> dict[str, dict[str, Any]]:
        """As `PretestHook.get_summary`."""
        return self.hook.get_summary()

    def print_summary(self) -> None:
        """As `PretestHook.print_summary`."""
        self.hook.print_summary()
