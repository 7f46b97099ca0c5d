"""Runs of the benchmark: attempts, costs, and going on after a kill."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from lumina.errors import LuminaError
from lumina.measure.adaptive.adapter import Watched
from lumina.measure.adaptive.arms import ARMS
from lumina.measure.adaptive.log import Log, read_log
from lumina.measure.adaptive.pool import Results, run_all
from lumina.measure.adaptive.population import population
from lumina.measure.adaptive.running import Job, run_job
from lumina.measure.adaptive.scenario import SHAPES
from lumina.measure.adaptive.suite import Suite, chosen_rates
from lumina.measure.adaptive.texts import synthetic
from training import start_process, wait_until

FOUND = {"rates": dict.fromkeys(SHAPES, 0.004), "warmup": 0.1}
TEXT = synthetic(600_000)


class Toy:
    """A trainer without a model, that learns more at a higher rate."""

    name = "toy"

    def refuses(self, recipe, faults):
        return "it cannot adapt" if recipe.adaptive != "off" else ""

    def supervised(self, task):
        return False

    def train(self, task, resume):
        log, every = Log(task.log), task.recipe.checkpoints
        done = [line["step"] for line in read_log(task.log) if line["kind"] == "step"]
        first = max(done, default=0) // every * every if resume and every else 0
        for step in range(first, task.recipe.steps):
            for number, fault in enumerate(task.faults):
                if fault["step"] == step and not log.happened(number):
                    log.write("fault", step, number=number, name=fault["kind"])
                    name = {"sigkill": "SIGKILL", "sigstop": "SIGSTOP"}[fault["kind"]]
                    os.kill(os.getpid(), getattr(signal, name))
            log.write("step", step + 1)
            if (
                step + 1
            ) % task.recipe.evaluations == 0 or step + 1 == task.recipe.steps:
                loss = 5 - min(1, 100 * task.recipe.learning_rate) * step / 100
                log.write("eval", step + 1, loss=loss)

    def teach(self, memory, lessons):
        memory.write_text("\n".join(sorted(lessons)))

    def watched(self, task):
        known = task.recipe.experience and Path(task.recipe.experience).read_text()
        return Watched(notes={"knew": known}, lesson="a lesson")


def made(family, arm, tmp_path, seconds=20.0):
    one = next(s for s in population("development") if s.family == family)
    return run_job(Job(one, ARMS[arm], Toy(), TEXT, FOUND, seconds), tmp_path)


def test_a_killed_run_is_gone_on_with_and_charged_for_repeated_steps(tmp_path):
    row = made("sigkill", "competent", tmp_path)
    assert (row["status"], len(row["attempts"])) == ("done", 2)
    assert row["attempts"][0]["signal"] == signal.SIGKILL
    killed = row["faults"][0]["step"]
    assert row["steps"] == 160 + killed % 20
    assert row["tokens"] == row["steps"] * 512
    assert row["curve"][-1][:2] == [row["tokens"], 160]


def test_an_arm_without_restarts_stays_dead(tmp_path):
    row = made("sigkill", "naive", tmp_path)
    assert (row["status"], row["why"]) == ("failed", "signal 9")
    assert len(row["attempts"]) == 1


def test_a_hang_is_charged_the_whole_limit_without_waiting_for_it(tmp_path):
    # Longer than a test may take.
    row = made("hang", "competent", tmp_path, seconds=5e4)
    assert (row["status"], row["why"], row["seconds"]) == ("failed", "hung", 5e4)


def test_a_search_is_charged_for_its_probes(tmp_path):
    row = made("rate_too_low", "rate-search", tmp_path)
    assert row["tokens"] == row["budget"] == 160 * 512
    assert row["curve"][0][:2] == [(4 * 10 + 8) * 512, 8]
    alone = made("rate_too_low", "competent", tmp_path / "alone")
    assert row["learning_rate"] == pytest.approx(3 * alone["learning_rate"])


def test_an_oracle_removes_what_is_wrong_and_takes_the_best(tmp_path):
    row = made("hang", "oracle", tmp_path)
    assert (row["status"], row["faults"]) == ("done", [])
    assert row["learning_rate"] == pytest.approx(1.4 * 0.004)


def test_what_a_trainer_cannot_do_is_refused_with_its_reason(tmp_path):
    row = made("clean", "orchestrator", tmp_path)
    assert (row["status"], row["why"]) == ("refused", "it cannot adapt")


def twelve_jobs(path):
    """Of which the last end only once there is a file."""

    def do(job, folder):
        while job > 7 and not path.with_name("go on").exists():
            time.sleep(0.01)
        return {"number": job}

    jobs = {f"job {n}": n for n in range(12)}
    return run_all(jobs, do, Results(path), parallel=2, tell=lambda text: None)


def test_a_pool_that_was_killed_goes_on(tmp_path):
    path = tmp_path / "rows.jsonl"
    process = start_process(twelve_jobs, path)
    assert wait_until(lambda: len(read_log(path)) >= 3)
    process.kill()
    process.join()
    path.with_name("go on").touch()
    with path.open("a") as file:
        file.write('{"key": "cut o')
    before = len(read_log(path))
    assert twelve_jobs(path) == 0
    assert before <= 8
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert sorted(row["number"] for row in rows) == list(range(12))


def test_a_job_without_a_result_is_told_and_done_again(tmp_path):
    said = []

    def do(job, folder):
        raise ValueError("no such thing")

    results = Results(tmp_path / "rows.jsonl")
    assert run_all({"one": 1}, do, results, parallel=1, tell=said.append) == 1
    assert any("no such thing" in text for text in said)
    assert not results.keys


def suite(tmp_path):
    found = Suite(tmp_path)
    found.generate(None)
    (tmp_path / "tuned.json").write_text(json.dumps(FOUND))
    found.warm = lambda adapter, competent: None  # type: ignore[method-assign]
    return found


def run(found, half, **options):
    return found.run(
        Toy(),
        ARMS["naive"],
        half,
        parallel=2,
        tell=lambda text: None,
        found=found.folder / "tuned.json",
        **options,
    )


def test_the_held_out_half_is_run_once_and_on_record(tmp_path):
    found = suite(tmp_path)
    with pytest.raises(LuminaError, match="--once"):
        run(found, "held-out", limit=4)
    assert run(found, "held-out", limit=4, once=True) == 0
    record = tmp_path / "results" / "held-out-runs.jsonl"
    assert [line["what"] for line in read_log(record)] == ["started"]
    with record.open("a") as file:
        line = {"what": "finished", "arm": "naive", "trainer": "toy", "time": "today"}
        file.write(json.dumps(line) + "\n")
    with pytest.raises(LuminaError, match="today"):
        run(found, "held-out", once=True)
    assert run(found, "development", limit=4) == 0
    with pytest.raises(LuminaError, match="another benchmark"):
        text = tmp_path / "other.txt"
        text.write_text("Another text. " * 40_000)
        found.generate(text)


def test_a_warm_run_knows_all_families_but_its_own(tmp_path):
    found = suite(tmp_path)
    scenarios = found.scenarios("development")
    with pytest.raises(LuminaError, match="lesson"):
        found._memories(Toy(), scenarios)
    results = Results(found.results("development", "orchestrator", "toy"))
    for family in ("clean", "hang", "sigkill"):
        one = next(s for s in scenarios if s.family == family)
        results.add({"key": one.id, "lesson": f"of {family}"})
    memories = found._memories(Toy(), scenarios)
    assert memories["hang"].read_text() == "of clean\nof sigkill"
    assert memories["batch"].read_text() == "of clean\nof hang\nof sigkill"
    one = next(s for s in scenarios if s.family == "batch")
    job = Job(one, ARMS["competent"], Toy(), TEXT, FOUND, 20.0, memories["batch"])
    row = run_job(job, tmp_path)
    assert row["notes"]["knew"].startswith("of clean")
    assert row["lesson"] == "a lesson"


def test_the_lowest_mean_loss_is_chosen():
    rows = []
    for shape in SHAPES:
        for rate, warmup, loss in ((1, 0.1, 3.0), (2, 0.1, 2.5), (2, 0.2, 2.6)):
            key = f"id {shape} {rate} {warmup}"
            rows.append({"key": key, "status": "done", "loss": loss})
        rows.append({"key": f"id {shape} 3 0.1", "status": "failed", "loss": 0.0})
    found = chosen_rates(rows)
    assert found["warmup"] == 0.1
    assert found["rates"] == dict.fromkeys(SHAPES, 2.0)
    with pytest.raises(LuminaError, match="--seconds"):
        chosen_rates([row | {"status": "failed"} for row in rows])
