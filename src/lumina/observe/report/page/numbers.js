"use strict";
// How values are written: one function for each unit of a chart.

function significant(value, digits) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e7 || size < 1e-4) return value.toExponential(Math.max(digits - 2, 1));
  const text = Number(value.toPrecision(digits));
  return text.toLocaleString("en-US", { maximumSignificantDigits: Math.max(digits, 3) });
}

function scaled(value, units, digits) {
  for (const [size, name] of units) {
    if (Math.abs(value) >= size) return significant(value / size, digits) + name;
  }
  return significant(value, digits);
}

const THOUSANDS = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];
const BINARY = [[2 ** 40, " TiB"], [2 ** 30, " GiB"], [2 ** 20, " MiB"], [2 ** 10, " KiB"], [0, " B"]];

const WRITTEN = {
  number: (value) => significant(value, 4),
  small: (value) => (value === 0 ? "0" : value.toExponential(2)),
  count: (value) => (Math.abs(value) < 1e5 ? Math.round(value).toLocaleString("en-US") : scaled(value, THOUSANDS, 3)),
  rate: (value) => scaled(value, THOUSANDS, 3),
  share: (value) => significant(value * 100, 3) + "%",
  bytes: (value) => scaled(value, BINARY, 3),
  seconds: (value) => significant(value, 3) + " s",
  hours: (value) => (value < 1 ? significant(value * 60, 3) + " min" : significant(value, 3) + " h"),
};

// A tick is a round number and needs fewer digits.
function tickText(unit, value) {
  if (unit === "small") return value === 0 ? "0" : value.toExponential().replace(/(\.\d)\d+/, "$1");
  return WRITTEN[unit](Number(value.toPrecision(6)));
}
