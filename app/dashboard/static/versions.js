// Versions beside each other and beside the baseline; which one serves is moved here.

import { at, put } from "./api.js";
import { blank, colour, draw } from "./chart.js";
import { $, empty, fill, h, table } from "./dom.js";
import { ago, moment, number, percent, verdict } from "./format.js";
import { confirm, toast } from "./shell.js";

export const MOST_COMPARED = 5;
const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
const HUES = ["median", "happened", "good", "bad", "warn"];

const beside = (own, baseline, text = number) => h("span", {}, text(own), h("span", { class: "sub", title: "Seasonal naive" }, text(baseline)));

/** The table; `state` has versions, champion, shown, compared (a Set of numbers). */
export function showVersions(state, { onShow, onCompare, onPromoted }) {
  const { versions, dataset } = state;
  $("#versions-count").textContent = versions.length ? `${versions.length}; the small figures are those of seasonal naive` : "";
  if (!versions.length) { fill($("#versions"), empty("No version yet: its first training is not done.")); return; }
  const score = (version, name) => [version.metrics.backtest?.[name], version.metrics.baseline?.[name]];
  const cover = (version, share) => [version.metrics.backtest?.coverage?.[share], version.metrics.baseline?.coverage?.[share]];
  fill($("#versions"), table([
    { title: "Compare", of: (one) => h("input", { type: "checkbox", checked: state.compared.has(one.version), "aria-label": `Compare version ${one.version}`, onchange: (event) => onCompare(one.version, event.target) }) },
    { title: "Version", class: "nowrap", of: (one) => h("span", {}, h("button", { type: "button", class: "link", onclick: () => onShow(one.version) }, `Version ${one.version}`), " ", one.version === state.champion && h("span", { class: "chip good" }, "serves")) },
    { title: "Skill", class: "nowrap", of: (one) => { const said = verdict(one.metrics); return h("span", { class: said.tone && `${said.tone}-text`, title: said.text }, h("span", { "aria-hidden": "true" }, `${said.mark} `), one.metrics.skill === null ? "not scored" : percent(one.metrics.skill)); } },
    { title: "MASE", number: true, hint: "Mean absolute scaled error", of: (one) => beside(...score(one, "mase")) },
    { title: "sMAPE", number: true, hint: "Symmetric mean absolute percentage error", of: (one) => beside(...score(one, "smape"), (value) => (value === null || value === undefined ? "–" : `${number(value, 3)} %`)) },
    { title: "WQL", number: true, hint: "Weighted quantile loss", of: (one) => beside(...score(one, "wql")) },
    { title: "in 80 %", number: true, hint: "Part of what happened that lay in the 80 % band", of: (one) => beside(...cover(one, "0.8"), percent) },
    { title: "in 95 %", number: true, hint: "Part of what happened that lay in the 95 % band", of: (one) => beside(...cover(one, "0.95"), percent) },
    { title: "Learned up to", class: "nowrap hide-narrow", of: (one) => h("span", {}, moment(one.cutoff, dataset.freq, dataset.time_zone), h("span", { class: "sub" }, ago(one.created_at))) },
    { title: h("span", { class: "visually-hidden" }, "Do"), of: (one) => h("div", { class: "row-actions" },
      one.training && h("a", { class: "button small quiet", href: `/trainings/${one.training}`, "aria-label": `Training of version ${one.version}` }, "Training"),
      one.version !== state.champion && h("button", { type: "button", class: "small", onclick: () => promote(state, one, onPromoted) }, verb(state, one))) },
  ], versions, { caption: "Versions", rowProps: (one) => ({ class: one.version === state.shown && "chosen" }) }));
}

const verb = (state, version) => (state.champion && version.version < state.champion ? "Roll back" : "Promote");

async function promote(state, version, onPromoted) {
  const serving = state.versions.find((one) => one.version === state.champion);
  const text = h("div", {},
    h("p", {}, `Version ${version.version}: ${verdict(version.metrics).text.toLowerCase()}.`),
    serving && h("p", {}, `Version ${serving.version}, which serves now: ${verdict(serving.metrics).text.toLowerCase()}.`),
    h("p", { class: "hint" }, "The very next forecast is of the version you choose. Nothing is deleted: it can be moved back at any time."));
  const isBack = verb(state, version) === "Roll back";
  if (!await confirm(`${isBack ? "Roll back to" : "Let"} version ${version.version}${isBack ? "" : " serve"}?`, text, `${verb(state, version)}${isBack ? " to" : ""} version ${version.version}`)) return;
  await onPromoted(async () => {
    await put(at("models", state.model.name, "aliases", "champion"), { version: version.version });
    toast(`Version ${version.version} serves.`);
  });
}

/** MASE of each step ahead, of the versions compared and of seasonal naive on the windows of the one that is shown. */
export function showSteps(state) {
  const chosen = state.versions.filter((one) => state.compared.has(one.version) && one.metrics.per_step?.mase);
  $("#steps-note").textContent = chosen.length ? "MASE: 1 is the error of repeating the last season within the history. Tick versions above to compare them." : "";
  if (!chosen.length) { blank($("#steps"), "No scores by step: there was too little data to hold any back."); return; }
  const naive = chosen.find((one) => one.version === state.shown) || chosen[0];
  draw($("#steps"), () => ({
    traces: [
      ...(naive.metrics.baseline_per_step?.mase ? [line(naive.metrics.baseline_per_step.mase, "Seasonal naive", { color: colour("naive"), width: 1.6, dash: "dot" })] : []),
      ...chosen.map((one, index) => line(one.metrics.per_step.mase, `Version ${one.version}`, { color: colour(HUES[index]), width: 2.2, dash: DASHES[index] })),
    ],
    layout: { xaxis: { title: "steps ahead", dtick: naive.horizon <= 16 ? 1 : undefined, rangemode: "tozero" }, yaxis: { title: "MASE", rangemode: "tozero" }, showlegend: true },
  }));
}

function line(values, name, style) {
  return { x: values.map((_, index) => index + 1), y: values, text: values.map((value) => number(value)), name, type: "scatter", mode: values.length < 25 ? "lines+markers" : "lines", line: style, marker: { size: 5 }, hovertemplate: `%{text}<extra>${name}</extra>` };
}

/** How often what happened lay within each band, beside how often it should. */
export function showCalibration(state) {
  const version = state.versions.find((one) => one.version === state.shown);
  const told = (scores) => Object.entries(scores?.coverage || {}).filter(([, value]) => value !== null).map(([share, value]) => [Number(share), value]).sort((a, b) => a[0] - b[0]);
  const own = told(version?.metrics.backtest), naive = told(version?.metrics.baseline);
  if (!own.length) { $("#calibration-note").textContent = ""; blank($("#calibration"), "Not measured: there was too little data to hold any back."); return; }
  const scored = version.metrics.n_windows;
  $("#calibration-note").textContent = `${own.map(([share, value]) => `the ${percent(share)} band held ${percent(value)}`).join(", ").replace(/^t/, "T")} of what happened, in ${scored} ${scored === 1 ? "window" : "windows"} of ${version.horizon} steps. On the diagonal a model is as sure as it should be; below it, too sure.`;
  const points = (pairs, name, hue, symbol) => ({
    x: pairs.map(([share]) => share), y: pairs.map(([, value]) => value), name, type: "scatter", mode: "lines+markers", line: { color: colour(hue), width: 2, dash: hue === "naive" ? "dot" : "solid" }, marker: { size: 9, symbol },
    text: pairs.map(([, value]) => percent(value, 1)), hovertemplate: `%{text}<extra>${name}</extra>`,
  });
  draw($("#calibration"), () => ({
    traces: [
      { x: [0, 1], y: [0, 1], type: "scatter", mode: "lines", line: { color: colour("line-strong"), width: 1, dash: "dash" }, hoverinfo: "skip", name: "As it should be" },
      ...(naive.length ? [points(naive, "Seasonal naive", "naive", "diamond")] : []), points(own, `Version ${version.version}`, "median", "circle"),
    ],
    layout: { xaxis: { title: "nominal coverage of the band", range: [0, 1.03], tickformat: ".0%", dtick: 0.25 }, yaxis: { title: "observed", range: [0, 1.03], tickformat: ".0%", dtick: 0.25 }, showlegend: true },
  }));
}
