// A model: what comes next and how sure that is, how it did on data it had not seen, which version serves, and how to ask for it.

import { at, get, post, send } from "./api.js";
import { bandsOf, blank, colour, draw, fanTraces, plotly, toPng } from "./chart.js";
import { $, $$, download, fill, h } from "./dom.js";
import { ago, count, moment, number, percent, plural, verdict, wall } from "./format.js";
import { historyTraces, holeShapes, onZoom, readOverview, timeAxis } from "./history.js";
import { makePicker } from "./picker.js";
import { attempt, nameOfPage, onBack, toast } from "./shell.js";
import { snippets } from "./snippets.js";
import { pageOf, startTraining } from "./train.js";
import { MOST_COMPARED, showCalibration, showSteps, showVersions } from "./versions.js";

const name = nameOfPage("Model");
const MOST_VERSIONS = 100;
const MOST_WINDOWS = 12;
const state = { model: null, dataset: null, versions: [], champion: null, shown: null, compared: new Set(), series: null, horizon: null, range: "recent", language: "curl", forecast: null, overview: null };

async function load() {
  const [model, versions] = await Promise.all([get(at("models", name)), get(at("models", name, "versions"), { limit: MOST_VERSIONS })]);
  const [dataset, series] = await Promise.all([get(at("datasets", model.dataset)), get(at("datasets", model.dataset, "series"), { limit: 1 })]);
  Object.assign(state, { model, dataset, versions: versions.items, champion: model.aliases.champion ?? null });
  if (!state.versions.some((one) => one.version === state.shown)) state.shown = state.champion ?? versions.items[0]?.version ?? null;
  state.series ||= new URLSearchParams(location.search).get("series") || series.items[0]?.id || null;
  if (!state.compared.size) [state.shown, ...versions.items.map((one) => one.version)].filter(Boolean).slice(0, 3).forEach((one) => state.compared.add(one));
  $("#retrain").disabled = false;
}

const shownVersion = () => state.versions.find((one) => one.version === state.shown);

function showHead() {
  const version = shownVersion(), said = verdict(version?.metrics), serves = state.versions.find((one) => one.version === state.champion);
  fill($("#sentence"),
    serves ? h("span", { class: "chip good" }, `version ${serves.version} serves`) : h("span", { class: "chip" }, "nothing serves yet"),
    version && h("span", { class: said.tone && `${said.tone}-text` }, h("span", { "aria-hidden": "true" }, `${said.mark} `), `${said.text}${version.version === state.champion ? "" : ` (version ${version.version})`}.`),
    h("span", {}, "Learned from ", h("a", { href: `/datasets/${state.model.dataset}` }, state.model.dataset), version ? `, ${plural(version.data.series ?? 0, "series", "series")} up to ${moment(version.cutoff, state.dataset.freq, state.dataset.time_zone)}, ${ago(version.created_at)}.` : "."));
  const select = $("#version");
  fill(select, state.versions.map((one) => h("option", { value: String(one.version) }, `${one.version}${one.version === state.champion ? " (serves)" : ""}`)));
  select.value = String(state.shown);
  const horizon = $("#horizon");
  horizon.max = version?.horizon ?? 1;
  if (!state.horizon || state.horizon > horizon.max) state.horizon = version?.horizon ?? null;
  horizon.value = state.horizon ?? "";
  for (const control of [select, horizon, $("#csv"), $("#png")]) control.disabled = !version;
}

const bodyOf = () => ({
  series: [state.series],
  ...(state.shown === state.champion ? {} : { version: state.shown }),
  ...(state.horizon === shownVersion()?.horizon ? {} : { horizon: state.horizon }),
});

async function showForecast() {
  const version = shownVersion();
  if (!version || !state.series) {
    const [training] = version ? [] : (await get("/v1/trainings", { model: name, limit: 1 })).items;
    blank($("#fan"), version ? "The dataset has no series any more." : h("span", {}, "No version yet. ", training && h("a", { href: pageOf(training) }, "Its training"), training && " shows how far it is."));
    return;
  }
  showCode();
  await attempt($("#fan-problem"), async () => {
    const width = $("#fan").clientWidth || 900;
    const [answer, overview] = await Promise.all([post(at("models", name, "forecasts"), bodyOf()), readOverview(state.dataset, state.series, width)]);
    Object.assign(state, { forecast: { ...answer.forecasts[0], version: answer.version }, overview });
    await drawFan();
    onZoom($("#fan"), (range) => attempt($("#fan-problem"), async () => {
      if (!state.overview.thinned && !state.zoomed) return;
      state.zoomed = range;
      state.overview = await readOverview(state.dataset, state.series, width, range);
      await drawFan(range);
    }));
  });
}

/** From where the past is worth seeing: some horizons and two seasons, or a hundred steps. */
function recentRange() {
  const { overview, forecast, dataset } = state, version = shownVersion();
  const steps = Math.max(4 * forecast.timestamps.length, 3 * Math.max(1, ...(version.config.season_lengths || [])), 40);
  if (overview.steps <= steps * 1.3) return null;
  const ends = [forecast.cutoff, forecast.timestamps.at(-1)].map((one) => (typeof one === "string" ? Date.parse(one) : one));
  const one = (ends[1] - ends[0]) / forecast.timestamps.length, from = ends[0] - one * steps;
  return [typeof forecast.cutoff === "string" ? wall(new Date(from).toISOString().slice(0, 19) + "Z", dataset.time_zone) : from, wall(forecast.timestamps.at(-1), dataset.time_zone)];
}

async function drawFan(zoomed = null) {
  const { forecast, dataset } = state, zone = dataset.time_zone;
  let range = zoomed;
  if (!range && state.range === "recent") range = recentRange();
  if (range && !zoomed && state.overview.thinned) state.overview = await readOverview(dataset, state.series, $("#fan").clientWidth, range);
  const { overview } = state, x = forecast.timestamps.map((one) => wall(one, zone));
  const lastIndex = overview.timestamps.findLastIndex((one, index) => overview.values[index] !== null && one <= forecast.cutoff);
  const from = lastIndex < 0 ? null : [wall(overview.timestamps[lastIndex], zone), overview.values[lastIndex]];
  await draw($("#fan"), () => ({
    traces: [...fanTraces(x, forecast, { from, text: number }), ...historyTraces(overview, dataset, { text: number })],
    layout: {
      shapes: [...holeShapes(overview, dataset), { type: "line", xref: "x", yref: "paper", x0: wall(forecast.cutoff, zone), x1: wall(forecast.cutoff, zone), y0: 0, y1: 1, line: { color: colour("line-strong"), width: 1, dash: "dot" } }],
      xaxis: { ...timeAxis(dataset, overview.steps + x.length), ...(range ? { range: widen(range) } : { autorange: true }) },
      yaxis: { title: "value, in the data's unit", ...fitY(overview, forecast, range, zone) }, showlegend: true,
    },
  }));
  const warnings = forecast.warnings.length ? ` ${forecast.warnings.join(" ")}` : "";
  $("#fan-note").textContent = `Version ${forecast.version}, made from what was known up to ${moment(forecast.cutoff, dataset.freq, zone)}. A band of 80 % is to hold what happens four times in five.${warnings}`;
}

/** A little room to the right, so that the last point is not cut. */
function widen([from, to]) {
  if (typeof to !== "string") return [from, to + (to - from) * 0.01];
  const room = (Date.parse(to.replace(" ", "T") + "Z") - Date.parse(from.replace(" ", "T") + "Z")) * 0.012;
  return [from, new Date(Date.parse(to.replace(" ", "T") + "Z") + room).toISOString().slice(0, 19).replace("T", " ")];
}

/** The values in view, since Plotly would make room for all. */
function fitY(overview, forecast, range, zone) {
  if (!range) return { autorange: true };
  const inside = overview.values.filter((value, index) => { const at_ = wall(overview.timestamps[index], zone); return value !== null && at_ >= range[0] && at_ <= range[1]; });
  const isFuture = wall(forecast.timestamps[0], zone) <= range[1];
  const all = isFuture ? [...inside, ...forecast.median, ...Object.values(forecast.quantiles).flat()] : inside;
  if (!all.length) return { autorange: true };
  const low = Math.min(...all), high = Math.max(...all), room = (high - low || Math.abs(high) || 1) * 0.06;
  return { range: [low - room, high + room] };
}

async function showBacktest() {
  const version = shownVersion(), element = $("#backtest"), note = $("#backtest-note");
  $("#backtest-of").textContent = version && state.series ? `version ${version.version} · ${state.series}` : "";
  note.textContent = "";
  if (!version || !state.series) { blank(element, "Nothing was forecast yet."); return; }
  await attempt($("#fan-problem"), async () => {
    const { items } = await get(at("models", name, "versions", version.version, "backtest"), { series: state.series, limit: MOST_WINDOWS });
    if (!items.length) { blank(element, version.metrics.n_windows ? "The backtest of this series was not kept: of many series 200 are, evenly chosen. Take another one." : "Too little data to hold any back."); return; }
    const { dataset } = state, zone = dataset.time_zone, first = items.reduce((least, one) => (one.cutoff < least ? one.cutoff : least), items[0].cutoff);
    const span = typeof first === "string" ? (Date.parse(items[0].timestamps.at(-1)) - Date.parse(items[0].cutoff)) * 2.5 : items[0].timestamps.length * 2.5;
    const start = typeof first === "string" ? wall(new Date(Date.parse(first) - span).toISOString().slice(0, 19) + "Z", zone) : first - span;
    const end = wall(items.map((one) => one.timestamps.at(-1)).sort((a, b) => (a < b ? -1 : 1)).at(-1), zone);
    const overview = await readOverview(dataset, state.series, element.clientWidth || 900, [start, end]);
    await draw(element, () => ({ traces: backtestTraces(items, overview, dataset), layout: { shapes: cutoffLines(items, zone), xaxis: { ...timeAxis(dataset, overview.steps), range: widen([start, end]) }, yaxis: { title: "value, in the data's unit", autorange: true }, showlegend: true } }));
    note.textContent = describeBacktest(items);
  });
}

const cutoffLines = (items, zone) => items.map((one) => ({ type: "line", xref: "x", yref: "paper", x0: wall(one.cutoff, zone), x1: wall(one.cutoff, zone), y0: 0, y1: 1, line: { color: colour("line-strong"), width: 1, dash: "dot" } }));

function backtestTraces(items, overview, dataset) {
  const zone = dataset.time_zone;
  const fans = items.flatMap((one, index) => fanTraces(one.timestamps.map((at_) => wall(at_, zone)), one, { legend: index === 0, text: number }));
  const x = items.flatMap((one) => one.timestamps.map((at_) => wall(at_, zone))), y = items.flatMap((one) => one.actual);
  const dots = { x, y, type: "scatter", mode: "markers", marker: { color: colour("happened"), size: x.length > 60 ? 5 : 7, symbol: "circle", line: { color: colour("surface"), width: 1 } }, name: "What happened", text: y.map((value) => number(value)), hovertemplate: "<b>%{text}</b><extra>What happened</extra>" };
  return [...fans, ...historyTraces(overview, dataset, { text: number }), dots];
}

function describeBacktest(items) {
  const bands = bandsOf(Object.keys(items[0].quantiles).map(Number).sort((a, b) => a - b));
  const held = bands.map(({ low, high, share }) => {
    let inside = 0, all = 0;
    for (const one of items) one.actual.forEach((value, index) => { if (value !== null) { all += 1; inside += value >= one.quantiles[low][index] && value <= one.quantiles[high][index]; } });
    return `${count(inside)} of ${count(all)} in the ${percent(share)} band`;
  });
  return `The model had seen nothing after the dotted line. Of this series: ${held.join(", ")}.`;
}

function showCode() {
  const text = snippets(name, bodyOf())[state.language];
  $("#code").textContent = text;
  $$("[data-language]").forEach((tab) => { const isOn = tab.dataset.language === state.language; tab.setAttribute("aria-selected", String(isOn)); tab.tabIndex = isOn ? 0 : -1; });
}

function showTables() {
  showHead();
  showVersions(state, {
    onShow: choose,
    onCompare: (number_, box) => {
      if (box.checked && state.compared.size >= MOST_COMPARED) { box.checked = false; toast(`${MOST_COMPARED} versions are compared at once.`); return; }
      state.compared[box.checked ? "add" : "delete"](number_);
      showSteps(state);
    },
    onPromoted: (move) => attempt($("#problem"), async () => { await move(); await begin(); }),
  });
}

async function choose(version) {
  state.shown = version;
  state.compared.add(version);
  showTables();
  await showAll();
}

async function showAll() {
  const forecasts = Promise.all([showForecast(), showBacktest()]);  // asked before the chart library is read, which takes the browser a moment
  showSteps(state);
  showCalibration(state);
  await forecasts;
}

async function begin() {
  await attempt($("#problem"), async () => {
    await load();
    showTables();
    picker ||= makePicker($("#series"), $("#series-options"), state.model.dataset, pickSeries);
    picker.set(state.series ?? "");
    performance.mark("interactive");
    setTimeout(() => plotly().catch(() => {}));  // reading it takes the browser a moment
    await showAll();
  });
}

let picker = null;
function pickSeries(id) {
  state.series = id;
  delete state.zoomed;
  history.replaceState(null, "", `?series=${encodeURIComponent(id)}`);
  showForecast();
  showBacktest();
}

$("#version").addEventListener("change", (event) => choose(Number(event.target.value)));
$("#horizon").addEventListener("change", (event) => { state.horizon = Math.max(1, Number(event.target.value) || 1); showForecast(); });
$$("[data-range]").forEach((button) => button.addEventListener("click", () => {
  state.range = button.dataset.range;
  delete state.zoomed;
  $$("[data-range]").forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
  showForecast();
}));
$$("[data-language]").forEach((tab, index, tabs) => {
  tab.addEventListener("click", () => { state.language = tab.dataset.language; showCode(); });
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) { const next = tabs[(index + step + tabs.length) % tabs.length]; next.click(); next.focus(); }
  });
});
$("#copy").addEventListener("click", async () => { await navigator.clipboard.writeText($("#code").textContent); toast("Copied."); });
$("#png").addEventListener("click", () => attempt($("#fan-problem"), async () => download(`${name}-${state.series}.png`, await toPng($("#fan"), `${name} · ${state.series} · version ${state.forecast.version}`))));
$("#csv").addEventListener("click", () => attempt($("#fan-problem"), async () => {
  const answer = await send("POST", at("models", name, "forecasts"), { body: bodyOf(), accept: "text/csv" });
  download(`${name}-${state.series}.csv`, await answer.blob());
}));
$("#retrain").addEventListener("click", () => attempt($("#problem"), async () => { location.href = pageOf(await startTraining(name, {})); }));
onBack(begin);
begin();
