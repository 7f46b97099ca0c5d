"""The report in a real browser: it shows everything, nothing twice over another."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from browser import browser, executable
from lumina.observe.report import write_report
from lumina.state.events import EventLog
from lumina.state.metrics import read_metrics
from reported_run import HOSTILE, a_run, numbers

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(executable() is None, reason="no chromium here"),
]

BOXES = """(selector) => [...document.querySelectorAll(selector)].map((one) => {
  const box = one.getBoundingClientRect();
  const text = one.textContent.trim().slice(0, 40);
  return [text, box.left, box.top, box.right, box.bottom];
})"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A run with everything that a report can show, and names that are not kind."""
    folder = a_run(tmp_path_factory.mktemp("runs") / "<b>a run&", steps=600)
    rows = read_metrics(folder)
    for row in rows:
        step = row["step"]
        row["moe.load"] = [[0.1, 0.2, 0.3, 0.4], [0.25, 0.25, 0.25, 0.25]]
        for name in ("books", "code", HOSTILE[:30]):
            row[f"source.{name}.loss"] = 3 + len(name) / 100 + step % 7 / 10
            row[f"source.{name}.weight"] = 0.3 + step / 3000
            row[f"epoch.{name}"] = step / 500
        row["long." + "a_long_name_of_a_figure_" * 4] = float(step % 11)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    events = EventLog(folder / "events.jsonl")
    events.emit("run_started", "info", None, "goes on", 300, command="lumina train y")
    for step in range(40, 600, 40):
        events.emit("checkpoint_saved", "info", None, f"step-{step:08} is saved", step)
    events.emit(
        "control", "info", None, "learning_rate: 0.001 -> 0.0005", 200, id=1,
        name="learning_rate", old=1e-3, value=5e-4, reason=HOSTILE, source="user",
        outcome="applied",
    )  # fmt: skip
    events.emit(
        "decision", "info", None, "decided", 350, number=1, anomaly="loss_spike",
        action=HOSTILE, level=1, mode="on", confidence=0.9, reason=HOSTILE,
    )  # fmt: skip
    events.emit(HOSTILE, "error", "E301", HOSTILE, 500)
    events.close()
    samples = [
        {"step": step, "prompt": prompt, "text": f" at {step} {HOSTILE}"}
        for step in (200, 400, 600) for prompt in ("Once", HOSTILE)
    ]  # fmt: skip
    text = "".join(json.dumps(sample) + "\n" for sample in samples)
    (folder / "samples.jsonl").write_text(text)
    write_report(folder)
    return folder


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture
def shown(chromium, folder):
    """The page as it is opened, in a window of 1200 by 900."""
    chromium.console.clear()
    chromium.requests.clear()
    chromium.prefer("light")
    chromium.open(folder / "report.html")
    yield chromium
    assert chromium.console == []


def boxes(page, selector: str) -> list[list]:
    """(text, left, top, right, bottom) of all elements that are shown."""
    found = page.run(f"({BOXES})({json.dumps(selector)})")
    return [box for box in found if box[3] > box[1] and box[4] > box[2]]


def overlaps(found: list[list], slack: float = 0.5) -> list[tuple[str, str]]:
    return [
        (a[0], b[0])
        for n, a in enumerate(found) for b in found[n + 1 :]
        if min(a[3], b[3]) - max(a[1], b[1]) > slack
        and min(a[4], b[4]) - max(a[2], b[2]) > slack
    ]  # fmt: skip


def path_of(page, title: str, kind: str) -> list[tuple[float, float]]:
    """Points of the first line of a kind in a chart, in the order of the page."""
    text = page.run(f"""(() => {{
      const figure = [...document.querySelectorAll("figure")].find(
        (one) => one.querySelector(".title").textContent === {json.dumps(title)});
      return figure.querySelector(".curve{kind}").getAttribute("d");
    }})()""")
    return [tuple(map(float, p.split(","))) for p in text.lstrip("M").split()]


def choose(page, name: str, value: str, event: str = "change") -> None:
    page.run(f"""(() => {{
      const one = document.getElementById({json.dumps(name)});
      one.value = {json.dumps(value)};
      one.dispatchEvent(new Event({json.dumps(event)}, {{ bubbles: true }}));
    }})()""")


LOSS = "Loss (nats per token)"


@pytest.mark.parametrize("width", [1200, 720, 360])
def test_nothing_overlaps_and_nothing_is_empty(shown, width):
    shown.size(width, 900, phone=width < 500)
    shown.run("new Promise((done) => setTimeout(done, 100))")
    assert shown.run("document.documentElement.scrollWidth") <= width
    for selector in ("section", "figure", ".tiles > div", "nav a", ".tools > *"):
        assert overlaps(boxes(shown, selector)) == [], selector
    count = shown.run("document.querySelectorAll('figure').length")
    assert count == len(numbers_of(shown)["charts"]) > 10
    for number in range(count):
        chart = f"#chart-{number}"
        for part in (
            "text",
            ".key",
            ".title, .note, .key, .readout, .plot, .about, .values",
        ):
            assert overlaps(boxes(shown, f"{chart} {part}")) == [], (chart, part)
        widths = f"[...document.querySelectorAll('{chart} .curve')].map(box)"
        box = "const box = (one) => one.getBoundingClientRect().width;"
        assert max(shown.run(f"(() => {{ {box} return {widths}; }})()")) > 50, chart
        edge = boxes(shown, chart)[0]
        for box in boxes(shown, f"{chart} *:not(td, th, tr, table, thead, tbody)"):
            if box[0] or "curve" not in box[0]:
                assert edge[1] - 1 <= box[1] and box[3] <= edge[3] + 1, (chart, box)
    for selector in ("section", "figure", ".readout", ".tiles b", "pre", "code", "td"):
        empty = f"""[...document.querySelectorAll({selector!r})].filter((one) =>
          !one.textContent.trim() && !one.closest("#checkpoints, #decided")).length"""
        assert shown.run(empty) == 0, selector


def numbers_of(page) -> dict:
    return page.run("JSON.parse(document.getElementById('numbers').textContent)")


def test_only_the_file_itself_is_asked_for(shown, folder):
    assert len(shown.requests) == 1 and shown.requests[0].endswith("report.html")
    assert shown.run("document.querySelectorAll('main img, main b img').length") == 0
    assert shown.run("document.title").startswith("<b>a run& · Lumina")
    # Text of the run that is a script is not run, even where it is put into the page.
    blocked = "document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=a()>')"
    shown.run(blocked)
    shown.run("new Promise((done) => setTimeout(done, 50))")
    assert any("Content Security Policy" in line for line in shown.console)
    shown.console.clear()


def test_dragging_zooms_all_curves_and_a_double_click_shows_the_whole_run(shown):
    shown.run("document.getElementById('chart-0').scrollIntoView({block: 'center'})")
    _, left, top, right, bottom = boxes(shown, "#chart-0 .plot")[0]
    middle = (top + bottom) / 2
    axis = shown.run("[charts[0].left, charts[0].right, charts[0].width]")
    scale = (right - left) / axis[2]
    begin, end = left + axis[0] * scale, left + axis[1] * scale
    span = end - begin
    shown.drag(begin + span / 4, begin + span / 2, middle)
    assert shown.run("[view.from, view.to]") == pytest.approx([151, 300], abs=3)
    ticks = [box[0] for box in boxes(shown, "#chart-1 .xtick")]
    assert ticks and all(150 <= int(t) <= 301 for t in ticks), "all charts follow"
    assert shown.run("document.getElementById('from').value") == str(
        shown.run("view.from")
    )
    held = {"button": "left", "clickCount": 2}
    shown.mouse("Pressed", begin + span / 2, middle, **held)
    shown.mouse("Released", begin + span / 2, middle, **held)
    assert shown.run("[view.from, view.to]") == [1, 600]
    choose(shown, "from", "100")
    assert shown.run("[view.from, view.to]") == [100, 600]
    shown.run("document.getElementById('whole').click()")
    assert shown.run("[view.from, view.to]") == [1, 600]


def test_a_zoomed_curve_fills_the_picture(shown):
    """The spike of the gradient norm at step 300 no longer sets the axis."""
    before = path_of(shown, "Gradient norm before clipping", "")
    choose(shown, "to", "200")
    after = path_of(shown, "Gradient norm before clipping", "")

    def spread(points):
        inner = [y for x, y in points if x > 120]
        return max(inner) - min(inner)

    assert spread(after) > 80 and len(after) < len(before)


def test_smoothing_is_the_average_that_it_is_said_to_be(shown, folder):
    line = numbers(folder / "report.html")["charts"][0]["lines"][0]
    for keep in (0.5, 0.9):
        choose(shown, "smoothing", str(keep), "input")
        total = weight = 0.0
        expected = []
        for y in line.get("my", line["y"]):
            total, weight = keep * total + y, keep * weight + 1
            expected.append(total / weight)
        drawn = [y for _, y in path_of(shown, LOSS, ".soft")]
        places = shown.run(f"{json.dumps(expected)}.map((y) => charts[0].y(y))")
        assert drawn == pytest.approx(places, abs=0.06)
    raw = [y for _, y in path_of(shown, LOSS, ".raw")]
    choose(shown, "smoothing", "0", "input")
    assert shown.run("document.querySelectorAll('.curve.soft').length") == 0
    plain = [y for _, y in path_of(shown, LOSS, "")]
    assert plain == raw, "without smoothing every point stays where it was"


def test_scales_and_axes(shown):
    choose(shown, "scale", "log")
    high, middle, low = shown.run("[10, 1, 0.1].map((y) => charts[0].y(y))")
    assert middle - high == pytest.approx(low - middle)
    assert "logarithmic" in shown.run("charts[0].note.textContent")
    choose(shown, "scale", "linear")
    high, middle, low = shown.run("[3, 2, 1].map((y) => charts[0].y(y))")
    assert middle - high == pytest.approx(low - middle)
    choose(shown, "axis", "tokens")
    ticks = [box[0] for box in boxes(shown, "#chart-0 .xtick")]
    assert ticks and all(re.search(r"[kM]$|^0$", text) for text in ticks), ticks
    choose(shown, "axis", "hours")
    ticks = [box[0] for box in boxes(shown, "#chart-0 .xtick")]
    assert any("min" in text for text in ticks), ticks


def test_the_pointer_reads_values_and_what_happened_there(shown):
    shown.run("document.getElementById('chart-0').scrollIntoView({block: 'center'})")
    _, left, top, _, bottom = boxes(shown, "#chart-0 .plot")[0]
    x = shown.run("charts[0].x(300) / charts[0].width * charts[0].plot.clientWidth")
    shown.mouse("Moved", left + x, (top + bottom) / 2)
    told = shown.run("charts[0].readout.textContent")
    assert re.search(r"^step (29\d|30\d): training [\d.]+", told), told
    assert "held out" in told and "resumed" in told
    other = shown.run("charts[1].readout.textContent")
    assert re.search(r"^step (29\d|30\d):", other), "all charts show the same step"
    shown.mouse("Moved", 5, 5)
    assert shown.run("charts[0].readout.textContent").startswith("last, step 600")


def test_everything_works_by_keyboard(shown):
    shown.run("document.querySelector('#chart-0 .plot').focus()")
    shown.press("ArrowLeft")
    told = shown.run("charts[0].readout.textContent")
    assert told.startswith("step 59")
    assert shown.run("charts[0].readout.getAttribute('aria-live')") == "polite"
    shown.press("+")
    assert shown.run("view.to - view.from") == pytest.approx(300, abs=2)
    shown.press("Escape")
    assert shown.run("[view.from, view.to]") == [1, 600]
    shown.run("document.querySelector('#chart-0 .key').focus()")
    shown.run("document.activeElement.click()")
    assert shown.run("charts[0].shown.length") == 1
    unnamed = """[...document.querySelectorAll('button, input, select, [tabindex]')]
      .filter((one) => !(one.getAttribute('aria-label') || one.textContent.trim()
        || one.labels?.[0]?.textContent.trim() || one.tagName === 'SELECT')).length"""
    assert shown.run(unnamed) == 0


def test_marks_can_be_hidden(shown):
    for kind in ("joint", "change", "decision", "warning", "checkpoint", "evaluation"):
        marked = f"document.querySelectorAll('#chart-0 .mark.{kind}').length"
        assert shown.run(marked) > 0, kind
        shown.run(f"document.querySelector('[data-kind={kind}]').click()")
        assert shown.run(marked) == 0, kind


CONTRAST = """() => {
  const light = (colour) => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d');
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    const part = [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3)
      .map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * part[0] + 0.7152 * part[1] + 0.0722 * part[2];
  };
  const ground = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (colour !== 'rgba(0, 0, 0, 0)') return colour;
    }
    return 'white';
  };
  const chosen = 'h1, h2, h3, p, td, th, span, b, summary, a, code, pre, label, .key';
  return Math.min(...[...document.querySelectorAll(chosen)]
    .filter((one) => one.textContent.trim() && !one.closest('.loads')).map((one) => {
      const [a, b] = [light(getComputedStyle(one).color), light(ground(one))];
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    }));
}"""


def test_light_and_dark_follow_the_system_and_the_switch(shown, folder):
    ground = "getComputedStyle(document.body).backgroundColor"
    light = shown.run(ground)
    assert shown.run(f"({CONTRAST})()") >= 4.5
    shown.prefer("dark")
    dark = shown.run(ground)
    assert dark != light and shown.run(f"({CONTRAST})()") >= 4.5
    choose(shown, "theme", "light")
    assert shown.run(ground) == light
    shown.prefer("light")
    choose(shown, "theme", "dark")
    assert shown.run(ground) == dark
    choose(shown, "theme", "")
    assert shown.run(ground) == light


def test_paper_shows_everything(shown):
    pages = shown.pdf()
    assert pages.startswith(b"%PDF") and len(re.findall(rb"/Type /Page\b", pages)) >= 3
    shown.call("Emulation.setEmulatedMedia", media="print")
    shown.run("window.dispatchEvent(new Event('beforeprint'))")
    hidden = "[...document.querySelectorAll('nav, .tools, .readout')]"
    assert shown.run(f"{hidden}.every((one) => !one.offsetHeight)")
    closed = "[...document.querySelectorAll('details table')]"
    assert shown.run(f"{closed}.every((one) => one.offsetHeight > 0)")
    shown.run("window.dispatchEvent(new Event('afterprint'))")
    shown.call("Emulation.setEmulatedMedia", media="")
    assert shown.run("document.querySelectorAll('details.values[open]').length") == 0


def test_a_run_without_figures_has_a_page_too(chromium, tmp_path):
    (tmp_path / "run").mkdir()
    chromium.console.clear()
    chromium.open(write_report(tmp_path / "run"))
    assert chromium.console == []
    assert "There are no metrics yet" in chromium.run("document.body.innerText")


def test_a_run_of_one_step_can_be_drawn(chromium, tmp_path):
    (tmp_path / "run").mkdir()
    row = {"step": 1, "loss": 3.0, "grad_norm": 0.0, "learning_rate": 1e-9}
    (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    chromium.console.clear()
    chromium.open(write_report(tmp_path / "run"))
    for way in ("log", "linear", "auto"):
        choose(chromium, "scale", way)
        assert "NaN" not in chromium.run("document.body.innerHTML")
    assert chromium.console == []
