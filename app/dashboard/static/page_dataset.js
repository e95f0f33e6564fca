// A dataset: what is in it, each series drawn with its holes, more of it by drag and drop, a training in two presses.

import { at, get, list, send } from "./api.js";
import { draw, toPng } from "./chart.js";
import { $, download, empty, facts, fill, h, table } from "./dom.js";
import { watchDrops } from "./drop.js";
import { ago, count, moment, number, plural, unit } from "./format.js";
import { historyTraces, holeShapes, onZoom, readOverview, timeAxis } from "./history.js";
import { attempt, nameOfPage, onBack, toast } from "./shell.js";
import { askToTrain } from "./train.js";

const name = nameOfPage("Dataset");
const PAGE = 25;
const state = { dataset: null, series: null, overview: null, cursors: [null], page: 0, prefix: "" };

async function load() {
  state.dataset = await get(at("datasets", name));
  const { dataset } = state, time = (value) => moment(value, dataset.freq, dataset.time_zone);
  $("#description").textContent = dataset.description;
  facts($("#facts"), [
    ["Series", count(dataset.series)], ["Observations", count(dataset.observations)],
    ["Freq", dataset.freq ? `${dataset.freq} · ${unit(dataset.freq)}` : "not known yet"], ["Time zone", dataset.time_zone],
    ["From", time(dataset.first_timestamp)],
    ["Last point", dataset.last_timestamp === null ? "–" : h("span", {}, time(dataset.last_timestamp), typeof dataset.last_timestamp === "string" && h("span", { class: "thin quiet-text" }, ` · ${ago(dataset.last_timestamp)}`))],
    ["Folded by", dataset.aggregate],
  ]);
  $("#facts").removeAttribute("aria-busy");
  $("#train").disabled = !dataset.observations;
}

async function showList() {
  const answer = await get(at("datasets", name, "series"), { limit: PAGE, cursor: state.cursors[state.page], prefix: state.prefix });
  state.cursors[state.page + 1] = answer.next_cursor;
  const { items } = answer, { dataset } = state, first = state.page * PAGE + 1;
  $("#list-count").textContent = state.prefix ? `that begin with “${state.prefix}”` : count(dataset.series);
  $("#where").textContent = items.length ? `${count(first)} – ${count(first + items.length - 1)}${state.prefix ? "" : ` of ${count(dataset.series)}`}` : "";
  $("#before").disabled = state.page === 0;
  $("#next").disabled = !answer.next_cursor || (!state.prefix && first + items.length - 1 >= dataset.series);
  fill($("#list"), items.length ? table([
    { title: "Series", of: (one) => h("button", { type: "button", class: "link", onclick: () => show(one.id) }, one.id) },
    { title: "Points", number: true, of: (one) => count(one.count) },
    { title: "Missing", number: true, of: (one) => (one.missing ? count(one.missing) : h("span", { class: "thin" }, "none")) },
    { title: "From", class: "nowrap hide-narrow", of: (one) => moment(one.first_timestamp, dataset.freq, dataset.time_zone) },
    { title: "To", class: "nowrap", of: (one) => moment(one.last_timestamp, dataset.freq, dataset.time_zone) },
  ], items, { caption: "Series", rowProps: (one) => ({ class: one.id === state.series && "chosen", "data-id": one.id }) }) : empty(state.prefix ? `No series begins with “${state.prefix}”.` : "No series yet: drop a file beside this list."));
  return items;
}

async function show(series) {
  state.series = series;
  for (const row of document.querySelectorAll("#list tr[data-id]")) row.className = row.dataset.id === series ? "chosen" : "";
  $("#chart-title").textContent = series;
  state.overview = await readOverview(state.dataset, series, $("#chart").clientWidth || 900);
  delete state.range;
  await redraw();
  onZoom($("#chart"), (range) => attempt($("#problem"), async () => {
    state.range = range;
    const width = $("#chart").clientWidth;
    if (range || state.overview.thinned) state.overview = await readOverview(state.dataset, state.series, width, range);
    await redraw();
  }));
}

async function redraw() {
  const { overview, dataset } = state;
  const holes = overview.holes.reduce((sum, hole) => sum + hole.absent, 0);
  const drawnAs = overview.thinned ? `${count(overview.steps)} steps, thinned to the outermost of each pixel; drag across the chart to see more, press twice to see all.` : `${plural(overview.steps, "step")}, all drawn; drag across the chart to look closer.`;
  const absent = overview.holes.length ? ` Shaded: ${plural(overview.holes.length, "run")} without a value${holes ? ` (${count(holes)} steps never sent)` : ` (sent as missing)`}.` : " No value is missing.";
  $("#chart-note").textContent = drawnAs + absent;
  await draw($("#chart"), () => ({
    traces: historyTraces(overview, dataset, { text: number }),
    layout: {
      showlegend: false, shapes: holeShapes(overview, dataset),
      xaxis: { ...timeAxis(dataset, overview.steps), ...(state.range ? { range: state.range } : { autorange: true }) },
      yaxis: { title: "value, in the data's unit", autorange: true },
    },
  }));
}

let typing = null;
$("#search").addEventListener("input", (event) => {
  clearTimeout(typing);
  typing = setTimeout(() => turn(() => { state.prefix = event.target.value; state.cursors = [null]; state.page = 0; }), 180);
});
const turn = (change) => attempt($("#problem"), async () => { change(); await showList(); });
$("#next").addEventListener("click", () => turn(() => { state.page += 1; }));
$("#before").addEventListener("click", () => turn(() => { state.page -= 1; }));
$("#train").addEventListener("click", () => askToTrain(state.dataset));
$("#png").addEventListener("click", () => attempt($("#problem"), async () => download(`${name}-${state.series}.png`, await toPng($("#chart"), `${name} · ${state.series}`))));
$("#csv").addEventListener("click", () => attempt($("#problem"), async () => {
  const answer = await send("GET", at("datasets", name, "observations"), { query: { series: state.series }, accept: "text/csv" });
  download(`${name}-${state.series}.csv`, await answer.blob());
}));

async function showModels() {
  const found = (await list("/v1/models")).filter((model) => model.dataset === name);
  fill($("#models"), found.length ? h("ul", { class: "plain trainings" }, found.map((model) => h("li", {}, h("a", { href: `/models/${model.name}` }, model.name), h("span", { class: "count" }, model.aliases.champion ? `version ${model.aliases.champion} serves` : "nothing serves yet"))))
    : h("p", { class: "hint" }, "None yet. “Train a model” and one more press is all."));
}

async function begin() {
  await attempt($("#problem"), async () => {
    await load().catch((problem) => {
      if (problem.slug !== "not-found") throw problem;
      fill($("#list"), empty("Drop a file to begin this dataset."));
      throw problem;
    });
    const [first] = await showList();
    showModels();
    if (!first) { fill($("#chart"), empty("No observations yet.")); return; }
    await show(new URLSearchParams(location.search).get("series") || state.series || first.id);
  });
}

watchDrops({ name, onStored: (receipt) => { toast(`${plural(receipt.inserted + receipt.updated, "observation")} new or changed.`); begin(); } });
onBack(begin);
begin();
