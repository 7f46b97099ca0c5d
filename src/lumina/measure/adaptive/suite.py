"""The folder of the benchmark: scenarios, text, results, record of held-out runs."""

from __future__ import annotations

import atexit
import hashlib
import importlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from lumina.durable import write_file
from lumina.errors import LuminaError
from lumina.measure.adaptive.adapter import Adapter, Task
from lumina.measure.adaptive.arms import Arm, arm_named, recipe, shortened, tuned
from lumina.measure.adaptive.log import read_log
from lumina.measure.adaptive.pool import Results, Tell, in_child, run_all
from lumina.measure.adaptive.population import population, sample
from lumina.measure.adaptive.running import Job, run_job
from lumina.measure.adaptive.scenario import HALVES, SEED, SHAPES, Scenario
from lumina.measure.adaptive.texts import source, write_texts

RATES = (1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2)
"""Peaks among which the competent arm is tuned."""

WARMUPS = (0.05, 0.15)
"""Shares of warm-up among which it is tuned, one for all shapes."""

TUNED_ON = 2
"""Clean scenarios of each shape that it is tuned on."""

FAILED = 10.0
"""The loss that a failed run counts as when rates are chosen."""


class Suite:
    """Everything in one folder.

    Args:
        folder: that `generate` filled.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def generate(self, text: Path | None) -> dict[str, Any]:
        """Write the scenarios of both halves and the text; what is there has to agree.

        Raises:
            LuminaError: E101 for a text that does not do, or for another text than the
                folder has already.
        """
        words = source(text)
        facts: dict[str, Any] = {
            "seed": SEED,
            "text": text.name if text else "invented",
            "text_sha256": hashlib.sha256(words.encode()).hexdigest(),
        }
        files = {"text.txt": words}
        for half in HALVES:
            lines = [json.dumps(one.to_dict()) + "\n" for one in population(half)]
            files[f"{half}.jsonl"] = "".join(lines)
            digest = hashlib.sha256("".join(lines).encode()).hexdigest()
            facts[f"{half}_sha256"] = digest
        about = self.folder / "benchmark.json"
        if about.exists() and json.loads(about.read_text()) != facts:
            raise LuminaError(
                "E101",
                f"{self.folder} holds another benchmark, maybe of another text",
                "give another --out",
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            write_file(self.folder / name, content.encode())
        write_file(about, (json.dumps(facts, indent=1) + "\n").encode())
        return facts

    def scenarios(self, half: str) -> list[Scenario]:
        """Of a half, as they were generated.

        Raises:
            LuminaError: E101 where nothing was generated.
        """
        if half not in HALVES:
            raise LuminaError(
                "E005",
                f"the scenarios have no half {half!r}",
                f"choose among {', '.join(HALVES)}",
            )
        lines = self._read(f"{half}.jsonl").splitlines()
        return [Scenario.from_dict(json.loads(line)) for line in lines]

    def text(self) -> str:
        """What all pieces are cut from."""
        return self._read("text.txt")

    def results(self, half: str, arm: str, trainer: str) -> Path:
        """The file of an arm's rows."""
        return self.folder / "results" / f"{half}-{arm}-{trainer}.jsonl"

    def rows(self, half: str, trainer: str) -> dict[str, dict[str, dict[str, Any]]]:
        """Every arm's rows: arm -> scenario -> row."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for path in sorted((self.folder / "results").glob(f"{half}-*-{trainer}.jsonl")):
            arm = path.name[len(half) + 1 : -len(trainer) - 7]
            found[arm] = {row["key"]: row for row in read_log(path)}
        return found

    def tune(
        self, adapter: Adapter, to: Path, *, parallel: int, tell: Tell, seconds: float
    ) -> dict[str, Any]:
        """Find the competent rates and warm-up on the development half."""
        clean = [one for one in self.scenarios("development") if one.stratum == "clean"]
        text, jobs = self.text(), {}
        for shape in SHAPES:
            for one in [s for s in clean if s.shape == shape][:TUNED_ON]:
                for rate in RATES:
                    for warmup in WARMUPS:
                        found = {"rates": {shape: rate}, "warmup": warmup}
                        key = f"{one.id} {shape} {rate:g} {warmup:g}"
                        arm = arm_named("competent")
                        jobs[key] = Job(one, arm, adapter, text, found, seconds)
        results = Results(self.folder / "results" / f"tune-{adapter.name}.jsonl")
        self.warm(adapter, found)
        if failed := run_all(jobs, run_job, results, parallel=parallel, tell=tell):
            raise LuminaError("E005", f"{failed} runs have no result", "run it again")
        best = chosen_rates(results.rows)
        write_file(to, (json.dumps(best, indent=1) + "\n").encode())
        return best

    def run(
        self,
        adapter: Adapter,
        arm: Arm,
        half: str,
        *,
        parallel: int,
        tell: Tell,
        limit: int = 0,
        families: Sequence[str] = (),
        once: bool = False,
        seconds: float = 60.0,
        found: Path | None = None,
    ) -> int:
        """Run an arm's scenarios of a half, those that have no row yet.

        Args:
            adapter: the trainer.
            arm: what is done.
            half: of the population.
            parallel: most runs at a time.
            tell: shows progress.
            limit: only this many scenarios, with the same shares of the strata; 0: all
                of the arm's.
            families: only scenarios of these; none: all.
            once: said where the half is held out.
            seconds: most of an attempt.
            found: the file of `tune`; None: the committed one.

        Returns:
            The number of runs without a row.

        Raises:
            LuminaError: E002 for a held-out run that was not asked for plainly, or that
                was made before; E101 where nothing is generated or tuned.
        """
        scenarios = self.scenarios(half)
        if not arm.every:
            scenarios = sample(scenarios)
        if families:
            scenarios = [one for one in scenarios if one.family in families]
        if limit:
            scenarios = sample(scenarios, limit)
        results = Results(self.results(half, arm.name, adapter.name))
        competent = tuned(found) if found else tuned()
        text = self.text()
        memories = self._memories(adapter, scenarios) if arm.learns else {}
        jobs = {
            one.id: Job(
                one, arm, adapter, text, competent, seconds, memories.get(one.family)
            )
            for one in scenarios
        }
        if half == "held-out":
            self._open_held_out(arm, adapter, jobs.keys() - results.keys, once)
        self.warm(adapter, competent)
        failed = run_all(jobs, run_job, results, parallel=parallel, tell=tell)
        if half == "held-out" and not failed and not limit and not families:
            self._note("finished", arm, adapter)
        return failed

    def warm(self, adapter: Adapter, competent: Any) -> None:
        """Import what a run imports, so that no forked run has to."""
        import torch

        torch.set_num_threads(1)
        one = self.scenarios("development")[0]
        rates = {**competent, "rates": dict.fromkeys(SHAPES, 1e-3)}
        short = replace(
            shortened(recipe(one, arm_named("competent"), found=rates), 4),
            evaluations=2,
        )
        with tempfile.TemporaryDirectory(prefix="lumina-bench-") as name:
            task = Task(Path(name) / "run", short)
            write_texts(task.folder, self.text(), one)
            modules = Path(name) / "modules"

            def work() -> None:
                adapter.train(task, False)
                modules.write_text("\n".join(sys.modules))

            ended = in_child(work, 300.0)
            if ended["code"] != 0:
                raise LuminaError(
                    "E005", f"a trial run failed: {ended['error'][-500:]}", "see above"
                )
            for module in modules.read_text().splitlines():
                if module not in sys.modules and not module.startswith("__"):
                    with suppress(Exception):
                        importlib.import_module(module)

    def _memories(
        self, adapter: Adapter, scenarios: Sequence[Scenario]
    ) -> dict[str, Path]:
        """For each family, a memory of the development runs of all other families."""
        rows = self.rows("development", adapter.name).get("orchestrator", {})
        family = {one.id: one.family for one in self.scenarios("development")}
        lessons = {id_: row["lesson"] for id_, row in rows.items() if "lesson" in row}
        if not lessons:
            raise LuminaError(
                "E101",
                "no run of the orchestrator on the development half has left a lesson",
                "run `lumina bench adaptive run --arm orchestrator` first",
            )
        folder = Path(tempfile.mkdtemp(prefix="lumina-bench-memory-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        found: dict[str, Path] = {}
        for name in sorted({one.family for one in scenarios}):
            found[name] = folder / f"{name}.sqlite"
            others = [text for id_, text in lessons.items() if family[id_] != name]
            adapter.teach(found[name], others)
        return found

    def _open_held_out(
        self, arm: Arm, adapter: Adapter, waiting: Any, once: bool
    ) -> None:
        if not once:
            raise LuminaError(
                "E002",
                "the held-out half is for one run of what is finished",
                "add --once if nothing will be changed afterwards",
            )
        for note in read_log(self._record):
            same = note["arm"] == arm.name and note["trainer"] == adapter.name
            if same and note["what"] == "finished":
                raise LuminaError(
                    "E002",
                    f"arm {arm.name} was run on the held-out half on {note['time']}",
                    "score it; what is changed now needs a new held-out half",
                )
        if waiting:
            self._note("started", arm, adapter)

    @property
    def _record(self) -> Path:
        return self.folder / "results" / "held-out-runs.jsonl"

    def _note(self, what: str, arm: Arm, adapter: Adapter) -> None:
        note = {
            "what": what,
            "arm": arm.name,
            "trainer": adapter.name,
            "time": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        }
        with self._record.open("a") as file:
            file.write(json.dumps(note) + "\n")

    def _read(self, name: str) -> str:
        try:
            return (self.folder / name).read_text()
        except FileNotFoundError as error:
            raise LuminaError(
                "E101",
                f"{self.folder / name} is missing",
                f"run `lumina bench adaptive generate --out {self.folder}`",
            ) from error


def chosen_rates(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The warm-up, and under it the rate of each shape, with the lowest mean loss.

    Args:
        rows: of `Suite.tune`; a failed run counts as a loss of 10.

    Raises:
        LuminaError: E005 where every run of a shape failed.
    """
    losses: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        _, shape, rate, warmup = row["key"].split()
        loss = row["loss"] if row["status"] == "done" else FAILED
        losses.setdefault((warmup, shape, rate), []).append(loss)
    means = {key: sum(some) / len(some) for key, some in losses.items()}

    def best(warmup: str, shape: str) -> tuple[float, str]:
        return min(
            (m, rate) for (w, s, rate), m in means.items() if (w, s) == (warmup, shape)
        )

    warmups = sorted({warmup for warmup, _, _ in means})
    warmup = min(warmups, key=lambda w: sum(best(w, s)[0] for s in SHAPES))
    if any(best(warmup, shape)[0] >= FAILED for shape in SHAPES):
        raise LuminaError(
            "E005",
            "at every rate a run of some shape failed",
            "look at the rows; on a busy machine give more --seconds",
        )
    return {
        "warmup": float(warmup),
        "rates": {shape: float(best(warmup, shape)[1]) for shape in SHAPES},
        "losses": {shape: round(best(warmup, shape)[0], 4) for shape in SHAPES},
    }
