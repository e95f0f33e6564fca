// A training: how far it is, what it costs, what was chosen and why; its end, and the next one with changes.

import { Problem, at, get, post } from "./api.js";
import { blank, colour, draw } from "./chart.js";
import { $, $$, facts, fill, h, table } from "./dom.js";
import { STATUS_TONES, ago, count, duration, moment, number, percent, verdict } from "./format.js";
import { attempt, confirm, nameOfPage, onBack, openDialog, problemBox, toast } from "./shell.js";
import { pageOf, startTraining } from "./train.js";

const id = nameOfPage(null);
const RETRY_MS = 1500;
const DRAW_MS = 250;
const ENDED = ["succeeded", "failed", "cancelled"];
const PHASES = { backtest: "Learning for the backtest", fit: "Learning from all data" };
const state = { training: null, points: [], source: null, drawn: 0 };

async function load() {
  state.training = await get(at("trainings", id));
  const { status, request: { device } } = state.training;
  const { devices } = status === "queued" ? await get("/v1/system") : { devices: null };
  state.nobody = devices && (device === "auto" ? !devices.length : !devices.includes(device)) ? (device === "auto" ? "any device" : device) : null;
  const history = await get(at("trainings", id, "history"));
  state.points = history.items;
  show();
  drawLoss();
}

function show() {
  const { training } = state, { progress } = training, isOver = ENDED.includes(training.status);
  document.title = `${training.status} · ${training.model} · Engram`;
  $("[data-name]").textContent = `Training of ${training.model}`;
  fill($("[data-model-link]"), training.model).href = `/models/${training.model}`;
  fill($("#state"), h("span", { class: `chip ${STATUS_TONES[training.status]}` }, training.status), h("span", {}, sentence(training)));
  $("#progress").value = training.status === "succeeded" ? 1 : progress.fraction;
  $("#eta").textContent = isOver ? "" : progress.eta_seconds === null ? (training.status === "queued" ? "waits for a worker" : "begins") : `about ${duration(progress.eta_seconds)} left`;
  const end = training.finished_at ? Date.parse(training.finished_at) : Date.now();
  facts($("#facts"), [
    ["Dataset", h("a", { href: `/datasets/${training.dataset}` }, training.dataset)], ["Horizon", count(training.request.horizon)],
    ["Series", training.data ? count(training.data.series) : null], ["Observations", training.data ? count(training.data.observations) : null],
    ["Learns up to", training.data ? String(moment(training.data.cutoff, "", "UTC")).replace(" 00:00", "") : null],
    ["Step", progress.steps ? `${count(progress.step)} of ${count(progress.steps)}` : null], ["Attempt", training.attempt || null], ["Device", training.device],
    ["Loss", progress.loss === null ? null : number(progress.loss)], ["Validation loss", progress.validation_loss === null ? null : number(progress.validation_loss)],
    ["Time", training.started_at ? duration((end - Date.parse(training.started_at)) / 1000) : null],
  ]);
  $("#cancel").hidden = isOver;
  $("#again").hidden = false;
  const see = $("#see");
  see.hidden = training.status !== "succeeded";
  see.href = `/models/${training.model}`;
  fill($("#problem"), training.problem && problemBox(new Problem(training.problem)), training.warnings.map((warning) => h("p", { class: "note" }, warning)));
  showConfig();
  showScores();
}

function sentence(training) {
  const said = verdict(training.metrics);
  return {
    queued: state.nobody ? `No worker for ${state.nobody} is there: it waits until one is started (engram worker), and begins by itself then.` : `Asked for ${ago(training.created_at)}; it begins as soon as a worker is free.`,
    running: PHASES[state.points.at(-1)?.phase] ? `${PHASES[state.points.at(-1).phase]}.` : "A worker has it.",
    succeeded: `Version ${training.version}. ${said.text}.`,
    failed: "No version came of it; what served before serves on.",
    cancelled: "It was cancelled; what served before serves on.",
  }[training.status];
}

function showConfig() {
  const { config, request } = state.training;
  if (!config) return;
  const asked = { ...request, ...request.network, ...request.fit, ...request.backtest };
  const rows = Object.entries(config).filter(([name]) => name !== "reasons").map(([name, value]) => ({ name, value, reason: config.reasons?.[name] }));
  rows.sort((a, b) => Number(Boolean(b.reason)) - Number(Boolean(a.reason)));
  const text = (value) => (value === null ? "none" : Array.isArray(value) ? value.map((one) => (typeof one === "number" ? number(one) : one)).join(", ") || "none" : typeof value === "number" ? number(value, 6) : String(value));
  fill($("#config"), table([
    { title: "What", class: "what", of: (row) => row.name.replaceAll("_", " ") },
    { title: "Value", of: (row) => h("strong", {}, text(row.value)) },
    { title: "Why", class: "reason", of: (row) => row.reason || (asked[row.name] !== undefined && asked[row.name] !== null ? "as asked, or the default" : "goes with the choices above") },
  ], rows, { caption: "Configuration as resolved" }));
}

function showScores() {
  const { metrics } = state.training;
  $("#scores-card").hidden = !metrics?.n_windows;
  if (!metrics?.n_windows) return;
  const { backtest, baseline, champion } = metrics;
  const score = (title, name, text = number, hint = "") => ({ title, hint, number: true, of: (row) => text(name(row.scores)) });
  const rows = [{ who: "This training", scores: backtest }, champion && { who: "The version that served", scores: champion }, { who: "Seasonal naive", scores: baseline }].filter(Boolean);
  fill($("#scores"), table([
    { title: "Who", class: "nowrap", of: (row) => row.who }, score("MASE", (one) => one.mase), score("MAE", (one) => one.mae), score("RMSE", (one) => one.rmse),
    score("sMAPE", (one) => one.smape, (value) => (value === null ? "–" : `${number(value, 3)} %`)), score("WQL", (one) => one.wql), score("in 80 %", (one) => one.coverage?.["0.8"], percent), score("in 95 %", (one) => one.coverage?.["0.95"], percent),
  ], rows, { caption: "Scores" }));
}

function drawLoss() {
  const { points, training } = state;
  if (!points.length) {
    $("#loss-note").textContent = "";
    const isOver = ENDED.includes(training.status);
    blank($("#loss"), isOver ? "No step was taken." : training.status === "queued" ? "The curve begins with the first step." : "Reading the data, choosing the configuration …");
    return;
  }
  state.drawn = Date.now();
  const last = points.at(-1), now = points.filter((one) => one.attempt === last.attempt), before = points.filter((one) => one.attempt !== last.attempt);
  const phases = now.filter((one, index) => !index || one.phase !== now[index - 1].phase);
  $("#loss-note").textContent = "Quantile loss on scaled values: lower is better. Where the validation loss rises while the training loss falls, the network learns by heart; the best weights are kept.";
  draw($("#loss"), () => ({
    traces: [
      ...(before.length ? [curve(before, "Attempts before", "loss", "naive", { width: 1, dash: "dot" })] : []),
      curve(now, "Training loss", "loss", "median"), curve(now, "Validation loss", "validation_loss", "happened", { dash: "dash" }),
    ],
    layout: {
      xaxis: { title: "step", range: [0, Math.max(last.steps, 1)] }, yaxis: { title: "loss", rangemode: "tozero" }, showlegend: true,
      shapes: phases.slice(1).map((one) => ({ type: "line", xref: "x", yref: "paper", x0: one.step, x1: one.step, y0: 0, y1: 1, line: { color: colour("line-strong"), width: 1, dash: "dot" } })),
      annotations: phases.map((one) => ({ x: one.step, y: 1, xref: "x", yref: "paper", text: one.phase, showarrow: false, xanchor: "left", yanchor: "top", font: { size: 11, color: colour("quiet") } })),
    },
  }));
}

/** One line; it lifts the pen between two attempts. */
function curve(points, name, field, hue, style = {}) {
  const parted = points.flatMap((one, index) => (index && one.attempt !== points[index - 1].attempt ? [{}, one] : [one]));
  return {
    x: parted.map((one) => one.step ?? null), y: parted.map((one) => one[field] ?? null), name, type: "scatter", mode: points.length < 4 ? "lines+markers" : "lines", marker: { size: 7 },
    connectgaps: field === "validation_loss", line: { color: colour(hue), width: 2, ...style }, text: parted.map((one) => number(one[field])), hovertemplate: `%{text}<extra>${name}</extra>`,
  };
}

/** Live, until its end. The stream is taken up again, where it broke off, when the service was away. */
function follow() {
  state.source?.close();
  if (ENDED.includes(state.training.status)) return;
  const source = state.source = new EventSource(at("trainings", id, "events"));
  let seen = 0;
  source.addEventListener("progress", (event) => {
    if (Number(event.lastEventId) <= seen) return;
    seen = Number(event.lastEventId);
    take(JSON.parse(event.data), seen);
  });
  for (const kind of ENDED) source.addEventListener(kind, () => { source.close(); attempt($("#problem"), load); });
  source.onerror = () => {
    if (state.source !== source) return;
    source.close();
    setTimeout(() => attempt($("#problem"), async () => { await load(); follow(); }), RETRY_MS);  // the load waits until it is back
  };
}

let loading = false;
function take(point, seq) {
  if (seq > state.points.length) state.points.push(point);
  const { training } = state;
  training.progress = { ...training.progress, fraction: point.fraction, step: point.step, steps: point.steps, loss: point.loss ?? training.progress.loss, validation_loss: point.validation_loss ?? training.progress.validation_loss };
  if (Date.now() - state.drawn > DRAW_MS) drawLoss();
  show();
  if (!loading) {  // the configuration and the time that is left stand in the row alone
    loading = true;
    setTimeout(async () => {
      try { const fresh = await get(at("trainings", id)); if (state.source?.readyState !== 2) { state.training = fresh; show(); } } finally { loading = false; }
    }, 700);
  }
}

$("#cancel").addEventListener("click", async () => {
  if (!await confirm("Cancel this training?", h("p", {}, "What it has learned so far is lost. The version that serves stays."), "Cancel the training")) return;
  await attempt($("#problem"), async () => { state.training = await post(at("trainings", id, "cancel")); toast("It is being cancelled."); show(); if (state.training.status === "cancelled") drawLoss(); });
});

const read = (object, path) => path.split(".").reduce((value, key) => value?.[key], object);

$("#again").addEventListener("click", () => {
  const { request } = state.training;
  for (const field of $$("#again-form [name]")) {
    const value = read(request, field.name);
    const text = value === null || value === undefined ? "" : Array.isArray(value) ? value.join(", ") : String(value);
    field.value = field.name === "end" ? "" : text === field.dataset.default && field.dataset.kind !== "choice" ? "" : text;
  }
  openDialog($("#again-dialog"));
});

/** Only what was filled in; each as the schema wants it. */
function readForm() {
  const body = { dataset: state.training.dataset };
  for (const field of $$("#again-form [name]")) {
    const text = field.value.trim(), { kind } = field.dataset;
    if (text === "" || (kind === "choice" && text === field.dataset.default)) continue;
    const parts = text.split(",").map((part) => part.trim()).filter(Boolean);
    const value = { numbers: () => parts.map(Number), texts: () => parts, whole: () => Number(text), number: () => Number(text), mixed: () => (/^-?\d+$/.test(text) ? Number(text) : text) }[kind]?.() ?? text;
    if ((Array.isArray(value) ? value : [value]).some((one) => Number.isNaN(one))) throw new Problem({ title: "This field is not a number", type: "/problems/form", detail: `${field.name.split(".").at(-1).replaceAll("_", " ")}: expected ${kind === "numbers" ? "numbers, separated by commas" : "a number"}, found “${text}”.` });
    const path = field.name.split(".");
    const place = path.slice(0, -1).reduce((object, key) => (object[key] ??= {}), body);
    place[path.at(-1)] = value;
  }
  if (body.horizon === undefined) body.horizon = state.training.request.horizon;
  return body;
}

$("#again-form").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt($("[data-problem]", event.target), async () => { location.href = pageOf(await startTraining(state.training.model, readForm())); });
});
const begin = () => attempt($("#problem"), async () => { await load(); follow(); });
onBack(() => { if (!state.training) begin(); });
begin();
