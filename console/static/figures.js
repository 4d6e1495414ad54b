// Live figures, read every two seconds; the last two minutes are drawn.

import { byId, draw, fill, make } from "./dom.js";
import { repeat } from "./ask.js";

const KEPT = 60;
const METHODS = ["EmbedQueries", "SearchItems"];
const CHARTS = [
  { key: "calls", title: "Throughput", unit: "calls a second", digits: 0 },
  { key: "p99", title: "99th percentile", unit: "ms", digits: 1 },
  { key: "median", title: "Median", unit: "ms", digits: 1 },
  { key: "errors", title: "Errors", unit: "calls a second", digits: 1 },
];
const points = []; // {calls: {method: value}, …}, oldest first
let reading = -1;

function show(figures) {
  byId("fresh").textContent = "Read every two seconds from " + figures.processes.length + (figures.processes.length === 1 ? " process" : " processes");
  const broken = figures.processes.filter((each) => each.error);
  fill(byId("problem"), broken.map((each) => each.error), (errors) => errors.map((error) => make("p", { class: "note bad" }, error)));
  fill(byId("processes"), figures.processes, describeProcesses);
  if (figures.reading === reading) return;
  reading = figures.reading;
  points.push(sumUp(figures.processes));
  if (points.length > KEPT) points.shift();
  drawCharts();
}

// Rates are summed over processes; of percentiles the worst process counts, since they cannot be added.
function sumUp(processes) {
  const point = { calls: {}, errors: {}, p99: {}, median: {} };
  for (const { methods } of processes) {
    for (const each of methods) {
      if (each.calls_per_s === null) continue; // the process counts what is no number
      point.calls[each.method] = (point.calls[each.method] || 0) + each.calls_per_s;
      point.errors[each.method] = (point.errors[each.method] || 0) + each.errors_per_s;
      for (const [key, value] of [["p99", each.p99_ms], ["median", each.median_ms]]) {
        if (value !== null) point[key][each.method] = Math.max(point[key][each.method] || 0, value);
      }
    }
  }
  return point;
}

function drawCharts() {
  const place = byId("charts");
  if (!place.children.length) {
    for (const chart of CHARTS) {
      const id = "chart-" + chart.key;
      place.append(make("section", { class: "card", "aria-labelledby": id }, make("h2", { id }, chart.title + ", ", make("span", { class: "soft" }, chart.unit)), make("ul", { class: "legend" }), make("figure", { class: "chart" })));
    }
  }
  CHARTS.forEach((chart, number) => {
    const [, legend, figure] = place.children[number].children;
    const last = points[points.length - 1][chart.key];
    legend.replaceChildren(...METHODS.map((method, series) => make("li", { class: "s" + series }, make("b", {}, last[method] === undefined ? "–" : last[method].toFixed(chart.digits)), make("span", { class: "key", "aria-hidden": "true" }), method)));
    figure.replaceChildren(drawLines(chart));
  });
}

function drawLines(chart) {
  const width = 480, height = 140, left = 42, bottom = 18, top = 8;
  const values = points.flatMap((point) => METHODS.map((method) => point[chart.key][method] ?? 0));
  const most = roundUp(Math.max(...values, chart.key === "errors" ? 1 : 0.1));
  const y = (value) => top + (height - top - bottom) * (1 - value / most);
  const x = (index) => left + ((width - left - 4) * (KEPT - points.length + index)) / (KEPT - 1);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": chart.title + " of the last two minutes; the numbers above are the latest" });
  for (const share of [0, 0.5, 1]) {
    svg.append(draw("line", { class: "grid", x1: left, x2: width - 4, y1: y(most * share), y2: y(most * share) }));
    svg.append(draw("text", { x: left - 6, y: y(most * share) + 4, "text-anchor": "end" }, number(most * share)));
  }
  svg.append(draw("text", { x: left, y: height - 2 }, "2 min ago"), draw("text", { x: width - 4, y: height - 2, "text-anchor": "end" }, "now"));
  METHODS.forEach((method, series) => {
    let path = "", down = false;
    points.forEach((point, index) => {
      const value = point[chart.key][method];
      if (value === undefined) { down = false; return; }
      path += (down ? "L" : "M") + x(index).toFixed(1) + " " + y(value).toFixed(1);
      if (!down && (index === points.length - 1 || points[index + 1][chart.key][method] === undefined)) path += "h.1";
      down = true;
    });
    if (path) svg.append(draw("path", { class: "line s" + series, d: path }));
  });
  return svg;
}

function roundUp(value) {
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 10].map((step) => step * size).find((bound) => bound >= value * 0.999);
}

function number(value) {
  return value >= 10 ? value.toFixed(0) : String(Number(value.toFixed(2)));
}

function describeProcesses(processes) {
  const head = ["Process", "Method", "Calls/s", "Errors/s", "Median, ms", "p99, ms", "In flight", "Queued"];
  const rows = processes.flatMap((process) => {
    const name = make("th", { scope: "row" }, make("span", { class: "mono" }, process.replica || process.address));
    if (process.error) return [make("tr", {}, name, make("td", { colspan: 7 }, "cannot be read"))];
    const methods = process.methods.filter((each) => each.calls_per_s > 0 || METHODS.includes(each.method));
    if (!methods.length) return [make("tr", {}, name, make("td", { colspan: 5, "data-label": "Method", class: "soft" }, "the first figures come with the next reading"), cell("In flight", process.in_flight), cell("Queued", process.queued))];
    return methods.map((each) => make("tr", {}, name.cloneNode(true), make("td", { "data-label": "Method" }, each.method),
      cell("Calls/s", shown(each.calls_per_s, 1)), cell("Errors/s", errorsOf(each)),
      cell("Median, ms", shown(each.median_ms, 2)), cell("p99, ms", shown(each.p99_ms, 2)),
      cell("In flight", process.in_flight), cell("Queued", process.queued)));
  });
  return make("table", { class: "cards" }, make("thead", {}, make("tr", {}, head.map((name, index) => make("th", { scope: "col", class: index > 1 ? "number" : null }, name)))), make("tbody", {}, rows));
}

function errorsOf(each) {
  const codes = Object.entries(each.codes).map(([code, rate]) => code + " " + shown(rate, 1));
  return shown(each.errors_per_s, 1) + (codes.length ? " (" + codes.join(", ") + ")" : "");
}

function shown(value, digits) {
  return value === null ? "–" : value.toFixed(digits);
}

function cell(label, value) {
  return make("td", { class: "number", "data-label": label }, value === null ? "–" : String(value));
}

repeat("/api/figures", 2000, show, (error) => {
  byId("fresh").textContent = error.message;
});
