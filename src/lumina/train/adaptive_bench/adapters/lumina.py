"""Lumina's own trainer in the benchmark."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from lumina.config import Config
from lumina.config.sections import LEAVES
from lumina.measure.adaptive.adapter import Task, Watched
from lumina.measure.adaptive.log import read_log
from lumina.measure.adaptive.scenario import Recipe
from lumina.measure.adaptive.texts import EVALUATED
from lumina.observe.console import Console
from lumina.state.experience.exchange import exported, read_export, take_in
from lumina.state.experience.store import ExperienceStore
from lumina.train.adaptive_bench import injector
from lumina.train.adaptive_bench.adapters import ADAPTERS
from lumina.train.adaptive_bench.process_faults import PROCESS_FAULTS
from lumina.train.trainer import Trainer

RESTART_DELAY, HANG_TIMEOUT = 0.5, 5.0
"""Seconds, for runs of seconds. A hung process is ended after twice the second."""

COUNTED = {"restarted": "restarts", "rolled_back": "rollbacks"}
"""Kinds of events that are counted, and the names of their numbers."""


class Lumina:
    """`lumina train`, in a process that was forked from one that has imported it."""

    name = "lumina"

    def refuses(self, recipe: Recipe, faults: tuple[Mapping[str, Any], ...]) -> str:
        """A reason where this version has no orchestrator."""
        if recipe.adaptive != "off" and "adaptive" not in LEAVES:
            return "this version of Lumina has no --adaptive"
        return ""

    def supervised(self, task: Task) -> bool:
        """For the orchestrator, where something happens to the process.

        Its restarts are then those of `lumina train --supervise`; without such a fault
        no supervisor is needed, and the run shares its imports with the others.
        """
        kinds = {fault["kind"] for fault in task.faults}
        return task.recipe.adaptive == "on" and not kinds.isdisjoint(PROCESS_FAULTS)

    def train(self, task: Task, resume: bool) -> None:
        """Train to the end in this process."""
        injection = task.folder / "injection.json"
        os.environ[injector.INJECTION] = str(injection)
        given = {
            "log": str(task.log),
            "checkpoints": str(self._run(task) / "checkpoints"),
            "faults": [dict(fault) for fault in task.faults],
        }
        injection.write_text(json.dumps(given))
        if self.supervised(task):
            self._become_supervised(task)
        config = (
            Config(resume=str(self._run(task)), plugins=(injector.__name__,))
            if resume and any((self._run(task) / "checkpoints").glob("step-*"))
            else Config(**self._options(task))
        )
        Trainer(config, console=Console(stream=io.StringIO(), live=False)).train()

    def teach(self, memory: Path, lessons: Sequence[str]) -> None:
        """Fill an experience store with exports of others."""
        store, file = ExperienceStore(memory), memory.with_suffix(".json")
        for lesson in lessons:
            file.write_text(lesson)
            take_in(store, read_export(file))
        file.unlink(missing_ok=True)

    def watched(self, task: Task) -> Watched:
        """Alarms and decisions of events.jsonl, and what a cold run has learned."""
        found = Watched()
        own = self._memory(task)
        cold = task.recipe.adaptive == "on" and not task.recipe.experience
        if cold and own.exists():
            found.lesson = exported(ExperienceStore(own).all())
        for event in read_log(self._run(task) / "events.jsonl"):
            data = event.get("data") or {}
            kind = event.get("kind")
            if kind == "decision":
                one = {
                    "step": event["step"],
                    "kind": data.get("anomaly", ""),
                    "action": data.get("action", ""),
                    "mode": data.get("mode", ""),
                    "reason": data.get("reason", ""),
                }
                found.decisions.append(one)
            elif kind in COUNTED:
                found.notes[COUNTED[kind]] = found.notes.get(COUNTED[kind], 0) + 1
            elif kind == "step_skipped":
                found.decisions.append(_alarm(event, "nonfinite"))
            elif "check" in data:
                found.decisions.append(_alarm(event, data["check"]))
        return found

    def _become_supervised(self, task: Task) -> NoReturn:
        """Put `lumina train --supervise` in the place of this process."""
        file = task.folder / "config.yaml"
        sections: dict[str, dict[str, Any]] = {}
        for option, value in self._options(task).items():
            if option != "preset":
                sections.setdefault(LEAVES[option], {})[option] = value
        file.write_text(json.dumps(sections))  # JSON is YAML, too
        command = [sys.executable, "-m", "lumina", "train", "--preset", "debug"]
        command += [
            "--config-file",
            str(file),
            "--supervise",
            "--restart-delay",
            f"{RESTART_DELAY:g}",
        ]
        command += ["--hang-timeout", f"{HANG_TIMEOUT:g}"]
        os.execv(sys.executable, command)

    def _memory(self, task: Task) -> Path:
        """The experience store of the run: empty at first where it begins cold."""
        return Path(task.recipe.experience or task.folder / "experience.sqlite")

    def _run(self, task: Task) -> Path:
        return task.folder / "run"

    def _options(self, task: Task) -> dict[str, Any]:
        recipe, shape = task.recipe, task.recipe.shape
        steps: list[str] = ["bench_injector"]
        steps += ["bench_skip_step"] * recipe.skip_step
        options: dict[str, Any] = {
            "preset": "debug",
            "vocab_size": 320,
            "hidden_size": shape.hidden,
            "num_layers": shape.layers,
            "num_heads": shape.heads,
            "qk_norm": "rms" if shape.qk_norm else "none",
            "init_std": recipe.init_std,
            "tie_embeddings": False,
            "use_moe": bool(shape.experts),
            "seq_length": recipe.length,
            "batch_size": recipe.rows,
            "global_batch_size": recipe.rows,
            "steps": recipe.steps,
            "learning_rate": recipe.learning_rate,
            "auto_adjust_lr": False,
            "min_lr": recipe.learning_rate * recipe.end_share,
            "warmup_steps": round(recipe.warmup * recipe.steps),
            "weight_decay": recipe.weight_decay,
            "beta2": recipe.beta2,
            "eps": recipe.eps,
            "max_grad_norm": recipe.clip,
            "gradient_steps": tuple(steps),
            "objective": "bench_objective",
            "plugins": (injector.__name__,),
            "robust_clip": recipe.robust_clip,
            "experience": str(self._memory(task)) if recipe.adaptive == "on" else "off",
            "seed": recipe.seed,
            "train_data": [str(task.folder / "train.txt")],
            "eval_data": [str(task.folder / "held-out.txt")],
            "tokenizer": str(task.folder / "tokenizer.json"),
            "linear_dataset": True,
            "eval_every_n_batches": recipe.evaluations,
            "eval_batches": EVALUATED // recipe.tokens or 1,
            "save_every_n_batches": recipe.checkpoints,
            "track_best_model": False,
            "report_samples": 0,
            "device": "cpu",
            "precision": "fp32",
            "compile": False,
            "run_dir": str(self._run(task)),
        }
        if shape.experts:
            options |= {
                "num_experts": shape.experts,
                "moe_top_k": 2,
                "moe_intermediate_size": shape.hidden,
                "load_balancing_weight": recipe.balance,
            }
        if recipe.embedding_rate != 1:
            options["group_learning_rates"] = (
                f"role:embedding={recipe.embedding_rate:g}",
            )
        if recipe.adaptive != "off":
            options["adaptive"] = recipe.adaptive
            options["adaptive_without"] = recipe.without
        return options


def _alarm(event: Mapping[str, Any], kind: str) -> dict[str, Any]:
    return {"step": event["step"], "kind": kind, "action": ""}


ADAPTERS["lumina"] = Lumina()
