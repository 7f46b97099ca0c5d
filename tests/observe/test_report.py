from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lumina.config import Config
from lumina.errors import LuminaError
from lumina.model.spec import ModelSpec
from lumina.observe import curves
from lumina.observe.findings import find
from lumina.observe.report import write_report
from lumina.plan.plan import Plan
from lumina.state.checkpoint import CheckpointStore
from lumina.state.events import EventLog
from lumina.state.metrics import MetricsLog, read_metrics
from lumina.state.run_directory import RunDirectory
from states import make_state

HOSTILE = (
    "<script>alert('x')</script>\"><img src=x onerror=alert(1)>&{{7*7}}\x00\x1b\ud800"
)
VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Every element, its attributes and the text; complains about wrong nesting."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def a_row(step: int, steps: int, **more) -> dict:
    noise = random.Random(step).gauss(0, 0.15)
    return {
        "step": step,
        "tokens": step * 4096,
        "epoch": step / 300,
        "loss": 2 + 6 * math.exp(-step / (steps / 5)) + noise,
        "learning_rate": 1e-3 * (1 + math.cos(math.pi * step / steps)) / 2,
        "grad_norm": 1 + abs(noise),
        "skipped": 0,
        "tokens_per_second": 9000 + 800 * noise,
        "step_seconds": 0.45,
        "data_wait_seconds": 0.001,
        "memory_allocated_bytes": 300 * 2**20,
        "memory_peak_bytes": 500 * 2**20,
        "mfu": None,
        "moe.max_violation": [0.4 + noise, 0.2],
        "moe.dead_experts": [0, 0],
        **more,
    }


def a_run(folder: Path, steps: int = 800) -> Path:
    """Every file a finished run leaves behind."""
    folder.mkdir(parents=True)
    metrics = MetricsLog(folder / "metrics.jsonl")
    for step in range(1, steps + 1):
        row = a_row(step, steps)
        if step % (steps // 8) == 0:
            row["eval_loss"] = 2.1 + 6 * math.exp(-step / (steps / 5))
        if step == steps // 2:
            row["grad_norm"] = 400.0
        if step == steps // 3:
            row["loss"] = float("nan")
        metrics.append(row)
    metrics.close()
    events = EventLog(folder / "events.jsonl")
    events.emit("run_started", "info", None, "fresh")
    events.emit("step_skipped", "warning", "E302", "the gradients were not finite", 7)
    events.emit("noise", "debug", None, "too small to show")
    events.close()
    config = Config.resolve(preset="debug", flags={"steps": steps, "seed": 7})
    config.save(folder / "config.yaml")
    spec = ModelSpec(2048, 2048, 128, 2, 2, 1, 64, 384, 256)
    plan = Plan(
        spec=spec,
        steps=steps,
        parameters=1_300_000,
        active_parameters=900_000,
        memory={"weights": 2**22, "total": 2**24},
        reasons={"compute_dtype": "the CPU has AMX"},
        warnings=("the text is short",),
    )
    (folder / "plan.json").write_text(json.dumps(plan.to_dict()))
    store = CheckpointStore(folder, keep=3)
    store.save(make_state(400), background=False)
    store.save(make_state(800), kind="best", background=False)
    store.close()
    RunDirectory(folder).mark("finished", steps)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return a_run(tmp_path_factory.mktemp("runs") / "debug-run")


@pytest.mark.covers("MON-18: metrics")
def test_the_report_tells_the_whole_run(run):
    path = write_report(
        run,
        samples=[("Once", " upon a time")],
        results={"bits per byte": "1.91"},
    )
    assert path == run / "report.html"
    shown = page(path)
    for part in (
        "debug-run",
        "finished",
        "of 800",
        "best held-out loss",
        "peak of the device not known",
        "Loss (nats per token)",
        "Learning rate",
        "Gradient norm before clipping",
        "Tokens per second",
        "Memory in use",
        "Busiest expert",
        "the CPU has AMX",
        "the text is short",
        "900,000 used for a token",
        "step-00000800",
        "LATEST BEST",
        "the gradients were not finite",
        "Once",
        "upon a time",
        "bits per byte",
    ):
        assert part in shown.text, part
    assert "too small to show" not in shown.text
    assert shown.count("figure") == 6
    assert re.search(r"seed\s*7\s*flag", shown.text)
    assert re.search(r"num_layers\s*2\s*preset debug", shown.text)


@pytest.mark.covers("MON-18: recommendations")
def test_the_report_says_what_stands_out_and_what_to_try(tmp_path):
    folder = a_run(tmp_path / "run")
    rows = read_metrics(folder)
    for row, loss in zip(rows[:4], (3.5, 3.25, 3.5, 3.75), strict=True):
        row["eval_loss"] = loss

    def shown(rows):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "metrics.jsonl").write_text(lines)
        return page(write_report(folder)).text

    noted = shown(rows[:4])
    assert "The held-out loss was best at step 2 (3.2500) and rose to 3.7500" in noted
    assert "Use the best checkpoint (--best); next time train shorter" in noted
    assert "Nothing stands out" not in noted
    assert "Nothing stands out" in shown(rows[:2])


def test_the_report_needs_nothing_from_outside(run):
    shown = page(write_report(run))
    tags = {tag for tag, _ in shown.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "base", "form"}
    for _, attributes in shown.elements:
        assert not {"src", "href", "style", "onload", "onclick"} & attributes.keys()
    text = (run / "report.html").read_text()
    assert "http://" not in text and "https://" not in text and "url(" not in text
    assert text.startswith("<!DOCTYPE html>")
    assert "prefers-color-scheme: dark" in text
    assert len(text) < 400_000


def test_hostile_strings_stay_text(tmp_path):
    run = a_run(tmp_path / "<b>&run", steps=40)
    events = EventLog(run / "events.jsonl")
    events.emit(HOSTILE, "error", None, HOSTILE)
    events.close()
    plan = json.loads((run / "plan.json").read_text())
    plan["reasons"]["steps"] = HOSTILE
    plan["device"] = plan["warnings"] = HOSTILE
    plan["warnings"] = [HOSTILE]
    plan["memory"] = {HOSTILE: 3}
    (run / "plan.json").write_text(json.dumps(plan))
    with open(run / "config.yaml", "a") as file:
        file.write(
            f"  hostile: {HOSTILE[:-2]}  # flag {HOSTILE[:-2]}\n".replace("\x00", "")
        )
    calm = page(write_report(a_run(tmp_path / "calm", steps=40), samples=[("a", "b")]))
    path = write_report(run, samples=[(HOSTILE, HOSTILE)], results={HOSTILE: HOSTILE})
    shown = page(path)
    known = {tag for tag, _ in calm.elements}
    assert {tag for tag, _ in shown.elements} <= known
    assert all(not name.startswith("on") for _, a in shown.elements for name in a)
    assert shown.text.count("<script>alert('x')</script>") >= 8
    assert shown.text.count("{{7*7}}") >= 8
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", text)
    assert "&lt;b&gt;&amp;run" in text


def test_a_run_that_has_only_begun_has_a_report(tmp_path):
    with RunDirectory(tmp_path / "run").acquire():
        pass
    text = page(write_report(tmp_path / "run")).text
    assert "There are no metrics yet" in text
    MetricsLog(tmp_path / "run" / "metrics.jsonl").append({"step": 1, "loss": 3.0})
    assert "3.0000" in page(write_report(tmp_path / "run")).text


def test_a_damaged_checkpoint_is_told(run):
    damaged = run / "checkpoints" / "step-00000900"
    shutil.copytree(run / "checkpoints" / "step-00000800", damaged)
    (damaged / "manifest.json").write_text("{")
    try:
        assert "step-00000900" in page(write_report(run)).text
    finally:
        shutil.rmtree(damaged)


def test_what_cannot_be_written_is_refused_by_code(tmp_path, run):
    with pytest.raises(LuminaError) as caught:
        write_report(tmp_path / "nowhere")
    assert caught.value.code == "E104"
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "plan.json").write_text("{")
    with pytest.raises(LuminaError) as caught:
        write_report(tmp_path / "run")
    assert caught.value.code == "E101"


def test_thin_curves_keep_their_spikes_and_ends():
    points = [(float(x), 0.0) for x in range(10_000)]
    points[4321] = (4321.0, 9.0)
    points[7000] = (7000.0, -5.0)
    kept = curves.thin(points)
    assert len(kept) <= 602 and kept == sorted(kept)
    assert (4321.0, 9.0) in kept and (7000.0, -5.0) in kept
    assert kept[0] == points[0] and kept[-1] == points[-1]


def test_coordinates_lie_in_the_picture_and_rise_with_the_value():
    points = [(1.0, 2.0), (2.0, 8.0), (3.0, 5.0)]
    chart = curves.draw("x", [curves.Series("a", points)], str)
    numbers = re.findall(r"(-?[\d.]+),(-?[\d.]+)", chart.lines[0][2])
    xs, ys = zip(*((float(x), float(y)) for x, y in numbers), strict=True)
    assert list(xs) == sorted(xs) and min(xs) >= 0 and max(xs) <= curves.WIDTH
    assert ys[1] < ys[2] < ys[0] and min(ys) >= 0 and max(ys) <= curves.HEIGHT
    assert "step 2: a 8.0" in [text for _, _, text in chart.hints]


@pytest.mark.parametrize(
    "values", [[3.0], [3.0, 3.0], [0.0, 0.0], [1e-9, 2e-9], [1e9, -1e9], [1e-3, 1e6]]
)
def test_any_range_of_values_can_be_drawn(values):
    points = [(float(x), y) for x, y in enumerate(values, 1)]
    chart = curves.draw("x", [curves.Series("a", points)], str)
    assert "nan" not in repr(chart) and "inf" not in repr(chart)
    assert chart.y_ticks


def test_outliers_make_the_axis_logarithmic():
    points = [(float(x), 1.0) for x in range(1, 50)]
    points.append((50.0, 1000.0))
    assert curves.draw("x", [curves.Series("a", points)], str).logarithmic
    assert curves.draw("x", [curves.Series("a", [])], str) is None


def test_a_logarithmic_axis_reaches_beyond_all_values():
    points = [(float(x), 2.0) for x in range(1, 50)] + [(50.0, 500.0)]
    chart = curves.draw("x", [curves.Series("a", points)], str)
    assert chart.logarithmic
    assert [text for _, text in chart.y_ticks] == ["1.0", "10.0", "100.0", "1000.0"]


def test_the_best_evaluation_is_the_one_of_the_lowest_loss(tmp_path):
    with RunDirectory(tmp_path / "run").acquire():
        pass
    log = MetricsLog(tmp_path / "run" / "metrics.jsonl")
    for step, loss in enumerate((3.25, 2.125, 2.5), start=1):
        log.append({"step": step, "loss": 3.0, "eval_loss": loss})
    text = " ".join(page(write_report(tmp_path / "run")).text.split())
    assert re.search(r"best held-out loss ?2\.1250 ?perplexity 8\.37, step 2", text)


def findings(changes, steps=100, plan=None):
    rows = [a_row(step, steps, **changes(step)) for step in range(1, steps + 1)]
    return " ".join(f.observed for f in find(rows, plan or {"max_grad_norm": 1.0}))


def test_findings_name_what_stands_out_and_nothing_else():
    assert find([], {}) == []
    calm = findings(lambda s: {"grad_norm": 0.5})
    assert calm == ""

    def rising(s):
        return {
            "grad_norm": 0.5,
            "eval_loss": abs(s - 40) / 10 + 2 if s % 10 == 0 else None,
        }

    assert "best at step 40 (2.0000) and rose to 8.0000" in findings(rising)

    def falling(s):
        return {"grad_norm": 0.5, "eval_loss": 5 - s / 50 if s % 10 == 0 else None}

    assert "still fell" in findings(falling)
    assert "100.0% of the second half" in findings(lambda s: {"grad_norm": 3.0})
    assert "12 of 100 steps" in findings(lambda s: {"grad_norm": 0, "skipped": 12})
    assert "waiting for data" in findings(
        lambda s: {"grad_norm": 0, "data_wait_seconds": 0.2}
    )
    assert "left 2 experts" in findings(
        lambda s: {"grad_norm": 0, "moe.dead_experts": [0, 2]}
    )


@pytest.mark.slow
def test_a_browser_shows_the_report(run, tmp_path):
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium here")
    picture = tmp_path / "report.png"
    subprocess.run(
        [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--screenshot={picture}",
            "--window-size=1200,1600",
            write_report(run).resolve().as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=280,
        env={**os.environ, "HOME": str(tmp_path)},
    )
    assert picture.stat().st_size > 20_000
