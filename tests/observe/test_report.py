"""report.html: what it tells, and that it stays text, small and alone."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest

from lumina.cli.main import main
from lumina.errors import LuminaError
from lumina.observe.report import write_report
from lumina.observe.report.write import MOST_BYTES
from lumina.state.events import EventLog
from lumina.state.metrics import MetricsLog, read_metrics
from lumina.state.run_directory import RunDirectory
from reported_run import HOSTILE, a_run, numbers, page, section


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
        "mean of the last 15\n",
        "peak of the device not known",
        "A dense transformer with 1.3M parameters (900,000 used for a token) trained "
        "from scratch for 800 steps (3.277M tokens, 2.67 passes) in 6 min of steps",
        "The best held-out loss is 2.1404 (perplexity 8.50), at step 800.",
        "Loss (nats per token)",
        "Learning rate",
        "Gradient norm before clipping",
        "Tokens per second",
        "Memory",
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
    assert shown.count("figure") == 8
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
    assert not tags & {"link", "img", "iframe", "object", "base", "embed"}
    for _, attributes in shown.elements:
        assert not {"src", "style", "action", "onload", "onclick"} & attributes.keys()
        assert attributes.get("href", "#").startswith("#")
    text = (run / "report.html").read_text()
    outside = text.replace('"http://www.w3.org/2000/svg"', "")  # a name, not a place
    assert "http://" not in outside and "https://" not in outside
    assert not re.search(r"url\((?!#)|@import|fetch\(|XMLHttp|WebSocket", text)
    assert text.startswith("<!DOCTYPE html>")
    assert len(text) < 400_000


def test_only_the_style_and_the_script_of_the_page_are_allowed(run):
    text = write_report(run).read_text()
    rules = re.search(r'http-equiv="Content-Security-Policy" content="(.*?)"', text)
    policy = rules[1].replace("&#39;", "'")
    for tag in ("style", "script"):
        (code,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.S)
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy


def test_hostile_strings_stay_text(tmp_path):
    run = a_run(tmp_path / "<b>&run", steps=40)
    events = EventLog(run / "events.jsonl")
    events.emit(HOSTILE, "error", None, HOSTILE, 20)
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
    scripts = sum(tag == "script" for tag, _ in shown.elements)
    assert scripts == 2, "the numbers and the page's own"
    told = [m["text"] for m in numbers(path)["marks"] if m["kind"] == "warning"]
    assert any("<script>alert('x')</script>" in text for text in told)
    data = re.search(r'id="numbers">(.*)</script>\n<script>', path.read_text())[1]
    assert not re.search("[<>&]", data), "nothing in the numbers can end their element"
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


def test_the_best_evaluation_is_the_one_of_the_lowest_loss(tmp_path):
    with RunDirectory(tmp_path / "run").acquire():
        pass
    log = MetricsLog(tmp_path / "run" / "metrics.jsonl")
    for step, loss in enumerate((3.25, 2.125, 2.5), start=1):
        log.append({"step": step, "loss": 3.0, "eval_loss": loss})
    text = " ".join(page(write_report(tmp_path / "run")).text.split())
    assert re.search(r"best held-out loss ?2\.1250 ?perplexity 8\.37, step 2", text)


def test_a_page_can_be_written_again_with_its_samples_and_results(tmp_path, capsys):
    folder = a_run(tmp_path / "run", steps=40)
    write_report(folder, samples=[("Once", " more")], results={"score": "0.5"})
    write_report(folder, results={"score": "0.75"})
    (folder / "report.html").unlink()
    assert main(["runs", "report", str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    assert "<b>Once</b> more" in section(folder, "samples")
    tiles = section(folder, "figures")
    assert "<span>score</span><b>0.75</b>" in tiles and "0.5<" not in tiles
    assert main(["runs", "report", str(tmp_path / "nowhere")]) == 1
    assert "E104" in capsys.readouterr().err


def test_samples_of_several_steps_stand_below_each_other(tmp_path):
    folder = a_run(tmp_path / "run", steps=40)
    rows = [(10, " a a a"), (20, " a time"), (40, " upon a time")]
    lines = [json.dumps({"step": n, "prompt": "Once", "text": t}) for n, t in rows]
    (folder / "samples.jsonl").write_text("\n".join(lines) + "\n")
    write_report(folder)
    found = re.findall(r"<h3>step (\d+)</h3>\s*<pre><b>Once</b>(.*?)</pre>",
                       section(folder, "samples"))  # fmt: skip
    assert found == [(str(n), text) for n, text in rows[::-1]]


@pytest.mark.covers("MON-18: decisions")
def test_what_was_changed_while_it_ran_is_told_with_its_reasons(tmp_path):
    folder = a_run(tmp_path / "run", steps=40)
    events = EventLog(folder / "events.jsonl")
    change = {"id": 1, "name": "learning_rate", "old": 1e-3, "value": 5e-4}
    events.emit(
        "control", "info", None, "learning_rate: 0.001 -> 0.0005", 20, **change,
        reason="the loss rises", source="orchestrator", outcome="applied",
        rule="calm_down", evidence={"slope": 0.25}, confidence=0.875,
        reversal="it falls for 50 steps",
    )  # fmt: skip
    events.emit(
        "control", "warning", None, "refused", 30, **change,
        reason="try it", source="user", outcome="refused: E005 not here",
    )  # fmt: skip
    events.close()
    write_report(folder)
    shown = section(folder, "decided")
    for part in (
        "<tr><td>20</td><td>rule calm_down</td>",
        "learning_rate: 0.001 → 0.0005",
        "the loss rises; evidence: slope 0.25; confidence 0.875; goes back when it "
        "falls for 50 steps",
        "<td>applied</td>",
        '<td class="warning">refused: E005 not here</td>',
        "the CPU has AMX",
    ):
        assert part in shown, part
    changes = [
        m for m in numbers(folder / "report.html")["marks"] if m["kind"] == "change"
    ]
    assert [mark["step"] for mark in changes] == [20, 30]


def test_joints_evaluations_and_checkpoints_are_marked_on_the_curves(tmp_path):
    folder = a_run(tmp_path / "run", steps=80)
    events = EventLog(folder / "events.jsonl")
    begun = (folder / "events.jsonl").read_text().replace('"step":null', '"step":0', 1)
    (folder / "events.jsonl").write_text(begun)
    events.emit("run_started", "info", None, "goes on", 40, command="lumina train x")
    events.emit("checkpoint_saved", "info", None, "step-00000050 is written", 50)
    events.close()
    found = numbers(write_report(folder))
    by_kind = {}
    for mark in found["marks"]:
        by_kind.setdefault(mark["kind"], []).append(mark["step"])
    assert by_kind["joint"] == [40], "the first start is no joint"
    assert by_kind["checkpoint"] == [50]
    assert by_kind["evaluation"] == [10, 20, 30, 40, 50, 60, 70, 80]
    assert by_kind["warning"] == [7]
    assert "resumed at step 40" in section(folder, "run")
    assert len(found["axes"]["step"]) == len(found["axes"]["hours"]) == 80
    assert found["axes"]["tokens"][-1] == 80 * 4096
    assert found["axes"]["hours"][-1] == pytest.approx(80 * 0.45 / 3600, rel=1e-4)


def test_commands_to_go_on_fit_how_the_run_ended(tmp_path):
    folder = a_run(tmp_path / "a run", steps=40)
    write_report(folder)
    shown = section(folder, "next").replace("&#39;", "'")
    assert f"<code>lumina train --resume '{folder}' --steps 80</code>" in shown
    assert f"<code>lumina generate '{folder}' --prompt 'Once'</code>" in shown
    assert f"<code>lumina export '{folder}' NEW_FOLDER</code>" in shown
    RunDirectory(folder).mark("interrupted", 40, reason="stopped by a signal")
    write_report(folder)
    first = re.search(r"<code>(.*?)</code>", section(folder, "next"))[1]
    assert first.replace("&#39;", "'") == f"lumina train --resume '{folder}'"


def long_run(folder: Path, steps: int) -> Path:
    folder.mkdir(parents=True)
    hostile = "<&\"'" * 50
    with open(folder / "metrics.jsonl", "w") as file:
        for step in range(1, steps + 1):
            row = {f"figure.{n}": (step * (n + 3)) % 97 / 7 for n in range(25)}
            row |= {"step": step, "loss": 900.0 if step == 777 else 3 + step % 5 / 10}
            file.write(json.dumps(row) + "\n")
    with open(folder / "events.jsonl", "w") as file:
        for step in range(1, steps + 1):
            event = {"step": step, "kind": "x", "severity": "warning"}
            file.write(json.dumps(event | {"message": hostile * 20}) + "\n")
    with open(folder / "samples.jsonl", "w") as file:
        for step in range(1, 200):
            sample = {"step": step, "prompt": hostile, "text": hostile * 30}
            file.write(json.dumps(sample) + "\n")
    return folder


def test_a_page_stays_below_a_megabyte_and_keeps_its_spikes(tmp_path):
    path = write_report(long_run(tmp_path / "run", 1500))
    assert path.stat().st_size <= MOST_BYTES == 1_000_000
    assert "shortened" in page(path).text
    loss = numbers(path)["charts"][0]["lines"][0]
    assert 900.0 in loss["y"] and max(loss["my"]) < 900
    assert loss["x"][loss["y"].index(900.0)] == 777
    assert (loss["x"][0], loss["x"][-1]) == (1, 1500)


def test_a_failed_run_says_why_in_its_last_words(tmp_path):
    folder = a_run(tmp_path / "run", steps=40)
    events = EventLog(folder / "events.jsonl")
    events.emit("run_failed", "critical", "E204", "no room to write", 12)
    events.emit("run_failed", "critical", "E301", "no finite gradient", 40)
    events.close()
    RunDirectory(folder).mark("failed", 40)
    write_report(folder)
    assert "E301 no finite gradient (step 40)" in section(folder, "run")


def test_a_run_whose_process_is_gone_was_killed(tmp_path):
    folder = a_run(tmp_path / "run", steps=40)
    directory = RunDirectory(folder)
    directory.mark("running", 30)
    write_report(folder)
    assert ">killed<" in (folder / "report.html").read_text()
    assert "the last row is of step 40" in section(folder, "run")
    with directory.acquire(resume=True):
        write_report(folder)
        assert ">running<" in (folder / "report.html").read_text()


def test_the_load_of_each_expert_is_the_mean_of_the_last_steps(tmp_path):
    folder = a_run(tmp_path / "run", steps=40)
    rows = [
        {"step": n, "moe.load": [[x, 1 - x], [0.5, 0.5]]}
        for n, x in [(1, 0.0), *((n, 0.25) for n in range(2, 101)), (101, 0.75)]
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)
    write_report(folder)
    shown = section(folder, "routing")
    assert "over the last 100 steps. The even share is 50.0%" in shown
    cells = re.findall(r'<td class="s(\d)">([\d.]+)%</td>', shown)
    # 99 times 0.25 and once 0.75: 25.5%, about half of the even share.
    assert cells == [("2", "25.5"), ("7", "74.5"), ("4", "50.0"), ("4", "50.0")]


def test_warnings_are_kept_before_other_events(tmp_path):
    folder = a_run(tmp_path / "run", steps=40)
    events = EventLog(folder / "events.jsonl")
    for step in range(400):
        events.emit("ordinary", "info", None, f"number {step}", step)
    events.close()
    write_report(folder)
    shown = section(folder, "events")
    assert "the gradients were not finite" in shown and "number 399" in shown
    assert "102 more are in events.jsonl only" in shown
    assert shown.count("<tr><td") == 300
