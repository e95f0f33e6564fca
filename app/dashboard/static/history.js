// A series as the service has it: thinned to what a screen shows, refined when one looks closer, its holes shaded.

import { at, get } from "./api.js";
import { colour } from "./chart.js";
import { stepSeconds, unit, wall } from "./format.js";

const POINTS_PER_PIXEL = 2;
const MAX_SHADED = 120;

/** GET overview of a part of a series, `start` and `end` on the wall clock of the dataset. */
export function readOverview(dataset, series, width, range = null, signal = undefined) {
  const isTime = dataset.freq !== "step";
  const edge = (value) => (value === undefined ? null : isTime ? String(value).slice(0, 19).replace(" ", "T") : Math.round(value));
  const query = { series, max_points: Math.max(400, Math.round(width * POINTS_PER_PIXEL)), start: edge(range?.[0]), end: edge(range?.[1]) };
  return get(at("datasets", dataset.name, "overview"), query, { signal });
}

/** The x axis of a dataset: its unit and time zone, and no ticks between two steps. */
export function timeAxis(dataset, steps) {
  if (dataset.freq === "step") return { title: "step", dtick: steps <= 10 ? 1 : undefined };
  const seconds = stepSeconds(dataset.freq);
  const one = seconds >= 2_592_000 ? `M${Math.round(seconds / 2_629_800)}` : seconds * 1000;
  return { title: `${unit(dataset.freq, false)} (${dataset.time_zone})`, ...(steps <= 10 && seconds >= 86_400 ? { dtick: one } : {}) };
}

/** The line through what was observed; single points between two holes get a mark, since no line goes through them. */
export function historyTraces(overview, dataset, { name = "Observed", text = String } = {}) {
  const x = overview.timestamps.map((timestamp) => wall(timestamp, dataset.time_zone));
  const { values } = overview;
  const y = [], at_ = [];
  values.forEach((value, index) => {
    if (index && value !== null && values[index - 1] !== null && isBroken(overview, index)) { at_.push(x[index]); y.push(null); }
    at_.push(x[index]);
    y.push(value);
  });
  const alone = y.map((value, index) => (value !== null && (y[index - 1] ?? null) === null && (y[index + 1] ?? null) === null ? value : null));
  const traces = [{
    x: at_, y, type: "scatter", mode: "lines", line: { color: colour("history"), width: 1.5 }, connectgaps: false, name, text: y.map((value) => (value === null ? "" : text(value))),
    hovertemplate: `<b>%{text}</b><extra>${name}</extra>`,
  }];
  if (alone.some((value) => value !== null)) traces.push({ x: at_, y: alone, type: "scatter", mode: "markers", marker: { color: colour("history"), size: 4 }, hoverinfo: "skip", showlegend: false });
  return traces;
}

function isBroken(overview, index) {
  if (!overview.thinned) return false;  // every step is here, missing ones as null
  const [from, to] = [overview.timestamps[index - 1], overview.timestamps[index]];
  return overview.holes.some((hole) => hole.start > from && hole.end < to && spansMost(hole, from, to));
}

function spansMost(hole, from, to) {
  const length = (a, b) => (typeof a === "string" ? Date.parse(b) - Date.parse(a) : b - a);
  return length(hole.start, hole.end) > 0.5 * length(from, to);
}

/** Shaded where values are missing: one mark for every hole, the longest ones if there are very many. */
export function holeShapes(overview, dataset) {
  const size = (hole) => (typeof hole.start === "string" ? Date.parse(hole.end) - Date.parse(hole.start) : hole.end - hole.start);
  const shown = overview.holes.length > MAX_SHADED ? [...overview.holes].sort((a, b) => size(b) - size(a)).slice(0, MAX_SHADED) : overview.holes;
  return shown.map((hole) => ({
    type: "rect", xref: "x", yref: "paper", y0: 0, y1: 1, layer: "below", line: { width: 1, color: colour("hole") }, fillcolor: colour("hole"),
    x0: wall(hole.start, dataset.time_zone), x1: wall(hole.end, dataset.time_zone),
  }));
}

/** Calls `refine(range)` a moment after somebody zoomed: [from, to] on the wall clock, or null for all. */
export function onZoom(element, refine) {
  if (element.dataset.zooms) return;
  element.dataset.zooms = "1";
  let timer = null;
  element.on("plotly_relayout", (change) => {
    const isReset = change["xaxis.autorange"];
    const range = change["xaxis.range"] || (change["xaxis.range[0]"] !== undefined && [change["xaxis.range[0]"], change["xaxis.range[1]"]]);
    if (!isReset && !range) return;
    clearTimeout(timer);
    timer = setTimeout(() => refine(isReset ? null : range), 120);
  });
}
