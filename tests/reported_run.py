"""A finished run with every file that a report is made of, and its page taken apart."""

from __future__ import annotations

import json
import math
import random
import re
from html.parser import HTMLParser
from pathlib import Path

from lumina.config import Config
from lumina.model.spec import ModelSpec
from lumina.plan.plan import Plan
from lumina.state.checkpoint import CheckpointStore
from lumina.state.events import EventLog
from lumina.state.metrics import MetricsLog
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


def section(run: Path, name: str) -> str:
    """The HTML of one section of a run's report; empty where it has none."""
    text = (run / "report.html").read_text(encoding="utf-8")
    _, _, rest = text.partition(f'<section id="{name}"')
    return rest.partition("</section>")[0]


def numbers(path: Path) -> dict:
    """What the curves of a report are drawn from."""
    text = path.read_text(encoding="utf-8")
    found = re.search(
        r'<script type="application/json" id="numbers">(.*?)</script>', text
    )
    assert found is not None
    return json.loads(found[1])


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
