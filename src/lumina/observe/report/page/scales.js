// Round ticks, positions, smoothed values.

function ticks(low, high, wanted) {
  if (high - low < 1e-12 * Math.max(Math.abs(low), Math.abs(high), 1e-12)) return [low];
  const rough = (high - low) / Math.max(wanted, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.999);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + 1e-9 * step; n += 1) found.push(n * step);
  return found;
}

// Bytes are round in the unit that they are written in.
function binaryTicks(low, high, wanted) {
  const [size] = BINARY.find(([unit]) => Math.max(Math.abs(low), Math.abs(high)) >= unit);
  return ticks(low / (size || 1), high / (size || 1), wanted).map((tick) => tick * (size || 1));
}

function logTicks(low, high, wanted) {
  const first = Math.ceil(Math.log10(low) - 1e-9);
  const last = Math.floor(Math.log10(high) + 1e-9);
  if (last - first < 1) return ticks(low, high, wanted).filter((tick) => tick > 0);
  const stride = Math.max(Math.ceil((last - first + 1) / wanted), 1);
  const found = [];
  for (let n = first; n <= last; n += stride) found.push(10 ** n);
  return found;
}

// An exponential average without the pull towards zero at its beginning.
function smoothed(values, keep) {
  let total = 0;
  let weight = 0;
  return values.map((value) => {
    total = keep * total + value;
    weight = keep * weight + 1;
    return total / weight;
  });
}

// The value at x on the line through the points (xs, ys); xs rise.
function between(xs, ys, x) {
  if (x <= xs[0]) return ys[0];
  const last = xs.length - 1;
  if (x >= xs[last]) return ys[last];
  const n = after(xs, x);
  const share = (x - xs[n - 1]) / (xs[n] - xs[n - 1] || 1);
  return ys[n - 1] + share * (ys[n] - ys[n - 1]);
}

// Index of the first of the rising xs that is larger than x.
function after(xs, x) {
  let low = 0;
  let high = xs.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= x) low = middle + 1;
    else high = middle;
  }
  return low;
}

function nearest(xs, x) {
  const n = after(xs, x);
  if (n === 0) return 0;
  if (n === xs.length) return n - 1;
  return x - xs[n - 1] <= xs[n] - x ? n - 1 : n;
}
