// The overview: what is there, how good it is, what is being learned, who works. And the first visit.

import { at, get, send } from "./api.js";
import { $, empty, fill, h, sparkline, table } from "./dom.js";
import { watchDrops } from "./drop.js";
import { STATUS_TONES, ago, count, duration, moment, plural, stepSeconds, unit, verdict } from "./format.js";
import { attempt, onBack, problemBox, repeat, toast } from "./shell.js";
import { pageOf, startTraining, trainOn } from "./train.js";

const SHOWN = 100;
const SPARK_STEPS = 60;
const state = { sparks: new Map(), scores: new Map(), stamp: "", busy: false };

const chip = (text, tone = "") => h("span", { class: `chip ${tone}` }, text);

async function look() {
  const [datasets, models, live, ended, system] = await Promise.all([
    get("/v1/datasets", { limit: SHOWN }), get("/v1/models", { limit: SHOWN }), listLive(), get("/v1/trainings", { limit: 20 }), get("/v1/system"),
  ]);
  const isEmpty = !datasets.items.length && !models.items.length;
  const isInUse = state.running || (!$("#welcome").hidden && $("#welcome [data-stage]").childElementCount > 0);
  if (!isInUse) {
    $("#welcome").hidden = !isEmpty;
    $("#overview").hidden = isEmpty;
  }
  showHealth(system);
  showLive(live);
  ended.items = ended.items.filter((one) => one.finished_at).slice(0, 6);
  const stamp = JSON.stringify([datasets, models, ended.items.map((one) => [one.id, one.status])]);
  state.busy = live.length > 0;
  if (stamp === state.stamp) return;
  state.stamp = stamp;
  showDatasets(datasets);
  showRecent(ended.items);
  await showModels(models);
}

async function listLive() {
  const [running, queued] = await Promise.all([get("/v1/trainings", { status: "running", limit: 20 }), get("/v1/trainings", { status: "queued", limit: 20 })]);
  return [...running.items, ...queued.items];
}

function showLive(trainings) {
  $("#now").hidden = !trainings.length;
  fill($("#now-list"), trainings.map((one) => h("li", {},
    h("span", {}, h("a", { href: pageOf(one) }, h("strong", {}, one.model)), h("span", { class: "quiet-text" }, ` on ${one.dataset}`)),
    h("span", { class: "count" }, one.status === "queued" ? "queued" : one.progress.eta_seconds === null ? "begins" : `${duration(one.progress.eta_seconds)} left`),
    h("progress", { max: 1, value: one.progress.fraction, "aria-label": `Progress of ${one.model}` }))));
}

function showDatasets({ items, next_cursor: more }) {
  $("#datasets-count").textContent = more ? `the first ${items.length}` : count(items.length);
  if (!items.length) { fill($("#datasets"), empty("No dataset yet. Drop a file to begin.")); return; }
  fill($("#datasets"), table([
    { title: "Dataset", of: (one) => h("a", { class: "strong", href: `/datasets/${one.name}` }, one.name) },
    { title: "Series", number: true, of: (one) => count(one.series) },
    { title: "Points", number: true, of: (one) => count(one.observations) },
    { title: "Freq", of: (one) => (one.freq ? h("span", {}, one.freq, h("span", { class: "sub" }, unit(one.freq))) : "–") },
    { title: "Last point", class: "nowrap", of: freshness },
    { title: `Last ${SPARK_STEPS} steps`, class: "hide-narrow", hint: "Of the first series", of: spark },
    { title: h("span", { class: "visually-hidden" }, "Do"), of: (one) => h("div", { class: "row-actions" }, h("button", { type: "button", class: "small", disabled: !one.observations, onclick: () => trainOn(one.name), "aria-label": `Train a model on ${one.name}` }, "Train")) },
  ], items, { caption: "Datasets" }));
}

function freshness(dataset) {
  if (dataset.last_timestamp === null) return "no observations";
  const text = moment(dataset.last_timestamp, dataset.freq, dataset.time_zone);
  const step = stepSeconds(dataset.freq);
  if (!step) return text;
  const behind = (Date.now() - Date.parse(dataset.last_timestamp)) / 1000 / step;
  return h("span", {}, text, h("span", { class: "sub" }, ago(dataset.last_timestamp), behind <= 2 ? " · up to date" : ""));
}

function spark(dataset) {
  const key = `${dataset.name} ${dataset.last_timestamp} ${dataset.observations}`;
  const cell = h("span", {});
  const show = (values) => cell.replaceChildren(sparkline(values));
  if (state.sparks.has(key)) show(state.sparks.get(key));
  else if (dataset.observations) {
    readTail(dataset).then((values) => { state.sparks.set(key, values); show(values); }, () => {});
  }
  return cell;
}

async function readTail(dataset) {
  const [first] = (await get(at("datasets", dataset.name, "series"), { limit: 1 })).items;
  const step = stepSeconds(dataset.freq);
  const start = step ? new Date(Date.parse(first.last_timestamp) - step * SPARK_STEPS * 1000).toISOString() : first.last_timestamp - SPARK_STEPS;
  return (await get(at("datasets", dataset.name, "overview"), { series: first.id, start, max_points: 4 * SPARK_STEPS })).values;
}

async function showModels({ items, next_cursor: more }) {
  $("#models-count").textContent = more ? `the first ${items.length}` : count(items.length);
  if (!items.length) { fill($("#models"), empty("No model yet.", h("span", {}, "Press “Train” beside a dataset: that and one more press is all."))); return; }
  await Promise.all(items.map(readScore));
  const metrics = (one) => state.scores.get(`${one.name} ${one.aliases.champion}`);
  fill($("#models"), table([
    { title: "Model", of: (one) => h("a", { class: "strong", href: `/models/${one.name}` }, one.name) },
    { title: "Learned from", class: "hide-narrow", of: (one) => h("a", { href: `/datasets/${one.dataset}` }, one.dataset) },
    { title: "Serves", class: "nowrap", of: (one) => (one.aliases.champion ? h("span", {}, `version ${one.aliases.champion}`, one.newest_version > one.aliases.champion && h("span", { class: "sub" }, `newest: ${one.newest_version}`)) : chip("nothing yet")) },
    { title: "Horizon", number: true, of: (one) => count(one.horizon) },
    { title: "On held-out data", of: (one) => { const told = metrics(one); if (!told) return "–"; const said = verdict(told); return h("span", { class: said.tone && `${said.tone}-text` }, h("span", { "aria-hidden": "true" }, `${said.mark} `), said.text); } },
  ], items, { caption: "Models" }));
}

async function readScore(model) {
  const number_ = model.aliases.champion, key = `${model.name} ${number_}`;
  if (number_ && !state.scores.has(key)) state.scores.set(key, (await get(at("models", model.name, "versions", number_)).catch(() => ({}))).metrics);
}

function showRecent(trainings) {
  if (!trainings.length) { fill($("#recent"), empty("Nothing was trained yet.")); return; }
  fill($("#recent"), table([
    { title: "Model", of: (one) => h("a", { class: "strong", href: pageOf(one) }, one.model) },
    { title: "Result", of: (one) => h("span", {}, chip(one.status, STATUS_TONES[one.status]), one.problem && h("span", { class: "sub" }, one.problem.title)) },
    { title: "Version", number: true, of: (one) => one.version ?? "–" },
    { title: "Took", number: true, of: (one) => (one.finished_at && one.started_at ? duration((Date.parse(one.finished_at) - Date.parse(one.started_at)) / 1000) : "–") },
    { title: "When", class: "nowrap", of: (one) => ago(one.created_at) },
  ], trainings, { caption: "Last trainings" }));
}

function showHealth(system) {
  const busy = system.workers.reduce((sum, one) => sum + one.trainings, 0), waits = system.queue_depth;
  const oldest = Math.max(0, ...system.queues.map((one) => one.oldest_seconds));
  const row = (tone, text, hint) => h("div", { class: "health-row" }, h("span", { class: `dot ${tone}`, "aria-hidden": "true" }), h("span", {}, text), hint && h("p", { class: "hint" }, hint));
  const idle = busy ? `${plural(busy, "training")} at work` : "Idle";
  fill($("#health"),
    system.workers.length ? row("good", plural(system.workers.length, "worker"), `${idle}; on ${system.devices.join(", ")}.`) : row("bad", "No worker", "Trainings wait until one is started: engram worker."),
    waits ? row(oldest > 60 ? "warn" : "good", `${plural(waits, "training")} in the queue`, `The oldest waits for ${duration(oldest)}.`) : row("good", "Queue is empty", "A training begins at once."),
    row("good", "Database answers", `${system.database}, ${system.broker} queue; ${count(system.trainings.succeeded)} trainings succeeded, ${count(system.trainings.failed)} failed.`));
}

async function tryExample() {
  const button = $("#try-example"), steps = $("#example-steps"), bar = $("#example-progress");
  const mark = (name) => {
    const items = [...steps.children], now = items.findIndex((item) => item.dataset.step === name);
    items.forEach((item, index) => { item.className = index < now ? "done" : index === now ? "now" : ""; });
  };
  state.running = button.disabled = true;
  steps.hidden = false;
  const went = await attempt($("#example-problem"), async () => {
    mark("load");
    const csv = await (await fetch(`${$('meta[name="static"]').content}/air_passengers.csv`)).blob();
    await send("POST", at("datasets", "air", "observations"), { body: csv, type: "text/csv" });
    mark("queue");
    const training = await startTraining("air", { dataset: "air", horizon: 12 });
    mark("learn");
    bar.hidden = false;
    const ended = await waitForEnd(training.id, (progress) => { bar.value = progress.fraction; });
    if (ended.status !== "succeeded") { location.href = pageOf(ended); return; }
    mark("show");
    location.href = "/models/air";
  });
  button.disabled = went;
  state.running = went;
}

async function waitForEnd(id, onProgress) {
  for (;;) {
    const training = await get(at("trainings", id));
    onProgress(training.progress);
    if (training.finished_at) return training;
    await new Promise((resolve) => { setTimeout(resolve, 400); });
  }
}

$("#try-example").addEventListener("click", tryExample);
const again = repeat(async () => {
  try { await look(); } catch (error) {
    if (!error.slug) throw error;
    $("#overview").hidden = false;
    fill($("#models"), problemBox(error));
  }
}, () => (state.busy ? 1 : 5));
onBack(again);
watchDrops({ onStored: (receipt) => { toast(`${plural(receipt.received, "observation")} stored in ${receipt.dataset}.`); again(); } });
