// One chart: its lines, ticks and marks as SVG, drawn again whenever the view changes.

const SVG = "http://www.w3.org/2000/svg";
const HEIGHT = 230;
const TOP = 14;
const BOTTOM = 34;
const numbers = JSON.parse(document.getElementById("numbers").textContent);
const view = { from: 0, to: 1, smooth: 0.6, axis: "step", scale: "auto", hidden: new Set(), at: null };

function element(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

// Where a step stands along the chosen axis, and back.
function along(step) {
  return view.axis === "step" ? step : between(numbers.axes.step, numbers.axes[view.axis], step);
}

const SIGNS = {
  joint: "M0,-4 L4,0 L0,4 L-4,0 Z",
  change: "M-4,-3 L4,-3 L0,4 Z",
  decision: "M0,-5 L1.5,-1.5 L5,0 L1.5,1.5 L0,5 L-1.5,1.5 L-5,0 L-1.5,-1.5 Z",
  warning: "M-4,4 L4,4 L0,-4 Z",
  checkpoint: "M-3,-3 H3 V3 H-3 Z",
  evaluation: "M-3,0 A3,3 0 1 0 3,0 A3,3 0 1 0 -3,0 Z",
};

class Chart {
  constructor(spec) {
    Object.assign(this, spec);
    this.figure = document.getElementById(this.id);
    this.plot = this.figure.querySelector(".plot");
    this.readout = this.figure.querySelector(".readout");
    this.note = this.figure.querySelector(".note");
    this.keys = [...this.figure.querySelectorAll(".key")];
    this.keys.forEach((key) => key.addEventListener("click", () => {
      key.setAttribute("aria-pressed", key.getAttribute("aria-pressed") === "false");
      this.draw();
    }));
  }

  get shown() {
    return this.lines.filter((line, n) => this.keys[n].getAttribute("aria-pressed") === "true");
  }

  // Points of a line in the view, one more on either side, so that it runs to the edges.
  part(xs, ys) {
    const first = Math.max(after(xs, view.from - 1e-9) - 1, 0);
    const last = Math.min(after(xs, view.to) + 1, xs.length);
    return xs.slice(first, last).map((x, n) => [x, ys[first + n]]);
  }

  logarithmic(points) {
    if (view.scale !== "auto") return view.scale === "log" && points.some(([, y]) => y > 0);
    return this.log;
  }

  draw() {
    const raw = this.shown.map((line) => this.part(line.x, line.y));
    let points = raw.flat().filter(([x]) => x >= view.from && x <= view.to);
    if (!points.length) points = raw.flat();
    const log = this.logarithmic(points);
    const left = points.length;
    if (log) points = points.filter(([, y]) => y > 0);
    const left_out = left - points.length;
    this.note.textContent = [log ? "logarithmic" : "", left_out ? `${left_out} values of 0 or less not shown` : ""].filter(Boolean).join(", ");
    this.layout(points, log);
    const width = this.width;
    this.svg = element("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, "aria-hidden": "true" });
    const clip = `${this.id}-clip`;
    element("rect", { x: this.left, y: TOP - 2, width: Math.max(this.right - this.left, 1), height: HEIGHT - TOP - BOTTOM + 4 },
      element("clipPath", { id: clip }, element("defs", {}, this.svg)));
    this.drawGrid();
    const marks = element("g", { class: "marks" }, this.svg);
    const curves = element("g", { "clip-path": `url(#${clip})` }, this.svg);
    this.lines.forEach((line, n) => {
      if (this.keys[n].getAttribute("aria-pressed") === "true") this.drawLine(line, n, curves);
    });
    this.drawMarks(marks);
    this.cursor = element("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, visibility: "hidden" }, this.svg);
    this.chosen = element("rect", { class: "chosen", y: TOP, height: HEIGHT - TOP - BOTTOM, visibility: "hidden" }, this.svg);
    this.plot.replaceChildren(this.svg);
    this.tell();
  }

  layout(points, log) {
    this.width = Math.max(Math.round(this.plot.clientWidth), 240);
    const ys = points.map(([, y]) => y);
    let low = ys.length ? Math.min(...ys) : 0;
    let high = ys.length ? Math.max(...ys) : 1;
    if (log && low > 0) {
      if (high < low * 1.001) [low, high] = [low / 2, high * 2];
      this.rises = Math.log10;
      this.yTicks = logTicks(low, high, 5);
    } else {
      const margin = (high - low) * 0.04 || Math.abs(high) * 0.1 || 1;
      if (low < 0 || low - margin > 0 || high - low === 0) low -= margin;
      else low = 0;
      high += margin;
      this.rises = Number;
      this.yTicks = ticks(low, high, 5);
      if (this.unit === "bytes") this.yTicks = binaryTicks(low, high, 5);
    }
    [this.low, this.high] = [this.rises(low), this.rises(high)];
    const widest = Math.max(3, ...this.yTicks.map((tick) => tickText(this.unit, tick).length));
    this.left = Math.round(widest * 6.4) + 12;
    this.right = this.width - 14;
    [this.begin, this.end] = [along(view.from), along(view.to)];
  }

  x(step) {
    return this.left + ((along(step) - this.begin) / (this.end - this.begin || 1)) * (this.right - this.left);
  }

  y(value) {
    return HEIGHT - BOTTOM - ((this.rises(value) - this.low) / (this.high - this.low || 1)) * (HEIGHT - TOP - BOTTOM);
  }

  // The step under a horizontal position of the drawing.
  stepAt(x) {
    const place = this.begin + ((x - this.left) / (this.right - this.left)) * (this.end - this.begin);
    const step = view.axis === "step" ? place : between(numbers.axes[view.axis], numbers.axes.step, place);
    return Math.min(Math.max(step, view.from), view.to);
  }

  drawGrid() {
    for (const tick of this.yTicks) {
      const y = this.y(tick).toFixed(1);
      element("line", { class: "grid", x1: this.left, x2: this.right, y1: y, y2: y }, this.svg);
      element("text", { x: this.left - 7, y: Number(y) + 4, "text-anchor": "end", class: "ytick" }, this.svg, tickText(this.unit, tick));
    }
    const unit = view.axis === "hours" ? "hours" : "count";
    const span = this.end - this.begin || 1;
    for (const tick of ticks(this.begin, this.end, Math.floor((this.right - this.left) / 95))) {
      if (view.axis === "step" && tick !== Math.round(tick)) continue;
      const x = this.left + ((tick - this.begin) / span) * (this.right - this.left);
      const text = tickText(unit, tick);
      const half = text.length * 3.2;
      const place = Math.min(Math.max(x, half + 1), this.width - half - 1);
      element("text", { x: place.toFixed(1), y: HEIGHT - 4, "text-anchor": "middle", class: "xtick" }, this.svg, text);
    }
  }

  drawLine(line, n, parent) {
    const colour = `c${n % 8}${!line.quiet && n >= 8 ? " dashed" : ""}`;
    const place = ([x, y]) => `${this.x(x).toFixed(1)},${this.y(y).toFixed(1)}`;
    const drawable = ([, y]) => this.rises === Number || y > 0;
    const path = (points, more) => {
      const some = points.filter(drawable).map(place);
      if (some.length) element("path", { class: `curve ${colour} ${more}`, d: `M${some.join(" ")}${some.length === 1 ? ` ${some[0]}` : ""}` }, parent);
    };
    const points = this.part(line.x, line.y);
    if (line.quiet) return path(points, "quiet");
    const soft = line.smooth && view.smooth > 0 && line.x.length > 2;
    path(points, soft ? "raw" : "");
    if (soft) {
      const xs = line.mx || line.x;
      path(this.part(xs, smoothed(line.my || line.y, view.smooth)), "soft");
    }
    if (line.dots) {
      for (const [x, y] of points.filter(drawable)) element("circle", { class: `dot ${colour}`, cx: this.x(x).toFixed(1), cy: this.y(y).toFixed(1), r: 2.6 }, parent);
    }
    return undefined;
  }

  drawMarks(parent) {
    const taken = {};
    for (const mark of numbers.marks) {
      if (view.hidden.has(mark.kind) || mark.step < view.from || mark.step > view.to) continue;
      const x = Math.round(this.x(mark.step));
      if (taken[mark.kind] !== undefined && x - taken[mark.kind] < 7) continue;
      taken[mark.kind] = x;
      const low = mark.kind === "checkpoint" || mark.kind === "evaluation";
      const group = element("g", { class: `mark ${mark.kind}` }, parent);
      if (!low) element("line", { x1: x, x2: x, y1: TOP, y2: HEIGHT - BOTTOM }, group);
      const y = { checkpoint: HEIGHT - BOTTOM + 15, evaluation: HEIGHT - BOTTOM + 6 }[mark.kind] || 6;
      element("path", { d: SIGNS[mark.kind], transform: `translate(${x},${y})` }, group);
    }
  }

  // The values at the cursor, or the last ones.
  tell() {
    const step = view.at;
    this.cursor.setAttribute("visibility", step === null ? "hidden" : "visible");
    if (step !== null) for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, this.x(step).toFixed(1));
    const lines = this.shown;
    if (!lines.length) {
      this.readout.textContent = "All lines are hidden.";
      return;
    }
    const longest = lines.reduce((a, b) => (b.x.length > a.x.length ? b : a));
    const at = step === null ? Math.min(view.to, longest.x[longest.x.length - 1]) : longest.x[nearest(longest.x, step)];
    const reach = (view.to - view.from) / 40;
    const told = lines.map((line) => {
      const n = step === null ? Math.max(after(line.x, view.to) - 1, 0) : nearest(line.x, at);
      const far = step !== null && Math.abs(line.x[n] - at) > reach;
      return far ? "" : `${line.name} ${WRITTEN[this.unit](line.y[n])}`;
    });
    const near = step === null ? [] : numbers.marks
      .filter((mark) => !view.hidden.has(mark.kind) && Math.abs(mark.step - at) <= reach / 2).slice(0, 3)
      .map((mark) => (mark.step === at ? mark.text : `step ${mark.step.toLocaleString("en-US")}: ${mark.text}`));
    const head = `${step === null ? "last, " : ""}step ${at.toLocaleString("en-US")}`;
    this.readout.textContent = [`${head}: ${told.filter(Boolean).join(", ")}`, ...near].join(" · ");
  }
}
