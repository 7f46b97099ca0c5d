// Pointer and keyboard: a line that reads values, and zooming of all charts together.

const charts = numbers.charts.map((spec) => new Chart(spec));
const all = charts.flatMap((chart) => chart.lines.flatMap((line) => [line.x[0], line.x[line.x.length - 1]]));
const whole = all.length ? [Math.min(...all), Math.max(...all)] : [0, 1];

function drawAll() {
  charts.forEach((chart) => chart.draw());
}

function tellAll() {
  charts.forEach((chart) => chart.tell());
}

function show(from, to) {
  const least = Math.min(2, whole[1] - whole[0]);
  let [low, high] = [Math.max(Math.round(Math.min(from, to)), whole[0]), Math.min(Math.round(Math.max(from, to)), whole[1])];
  if (high - low < least) {
    low = Math.max(Math.min(low, whole[1] - least), whole[0]);
    high = low + least;
  }
  [view.from, view.to] = [low, high];
  if (view.at !== null) view.at = Math.min(Math.max(view.at, low), high);
  document.getElementById("from").value = low;
  document.getElementById("to").value = high;
  drawAll();
}

function showWhole() {
  show(...whole);
}

function zoomBy(factor) {
  const middle = view.at === null ? (view.from + view.to) / 2 : view.at;
  show(middle - (middle - view.from) * factor, middle + (view.to - middle) * factor);
}

function place(chart, event) {
  const box = chart.plot.getBoundingClientRect();
  return ((event.clientX - box.left) / box.width) * chart.width;
}

function watchPointer(chart) {
  let begun = null;
  const plot = chart.plot;
  const end = (event) => {
    if (begun === null) return;
    const [from, to] = [begun, place(chart, event)];
    begun = null;
    chart.chosen.setAttribute("visibility", "hidden");
    if (event.type === "pointerup" && Math.abs(to - from) > 5) show(chart.stepAt(from), chart.stepAt(to));
  };
  plot.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    begun = place(chart, event);
    plot.setPointerCapture(event.pointerId);
  });
  plot.addEventListener("pointermove", (event) => {
    const x = place(chart, event);
    view.at = chart.stepAt(x);
    tellAll();
    if (begun === null) return;
    chart.chosen.setAttribute("visibility", "visible");
    chart.chosen.setAttribute("x", Math.max(Math.min(begun, x), chart.left));
    chart.chosen.setAttribute("width", Math.abs(x - begun));
  });
  plot.addEventListener("pointerup", end);
  plot.addEventListener("pointercancel", end);
  plot.addEventListener("pointerleave", () => {
    if (begun !== null) return;
    view.at = null;
    tellAll();
  });
  plot.addEventListener("dblclick", showWhole);
}

function watchKeys(chart) {
  const plot = chart.plot;
  plot.addEventListener("focus", () => chart.readout.setAttribute("aria-live", "polite"));
  plot.addEventListener("blur", () => {
    chart.readout.removeAttribute("aria-live");
    view.at = null;
    tellAll();
  });
  plot.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const stride = Math.max((view.to - view.from) / (event.shiftKey ? 10 : 100), 1);
    const at = view.at === null ? view.to : view.at;
    const to = { ArrowLeft: at - stride, ArrowRight: at + stride, Home: view.from, End: view.to }[event.key];
    if (to !== undefined) {
      view.at = Math.round(Math.min(Math.max(to, view.from), view.to));
      tellAll();
    } else if (event.key === "+" || event.key === "=") zoomBy(0.5);
    else if (event.key === "-") zoomBy(2);
    else if (event.key === "0" || event.key === "Escape") showWhole();
    else return;
    event.preventDefault();
  });
}
