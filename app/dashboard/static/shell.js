// What every page has: theme, connection banner, key, confirmations, toasts, problems as sentences.

import { Problem, connect, hasSession, send } from "./api.js";
import { $, $$, fill, h } from "./dom.js";

const themeListeners = [];
export const onTheme = (listener) => themeListeners.push(listener);

export function toast(text) {
  const element = h("div", { class: "toast" }, text);
  $("#toasts").append(element);
  setTimeout(() => element.remove(), 5000);
}

/** What went wrong, the places, and the cure. `problem` may also be a training's own. */
export function problemBox(problem, ...more) {
  const places = (problem.errors || []).map((one) => {
    const where = one.row !== undefined ? `Row ${one.row}${one.column ? `, ${one.column}` : ""}` : one.column || one.pointer || one.name || "";
    return h("li", {}, where ? h("strong", {}, `${where}: `) : null, one.detail);
  });
  return h("div", { class: "problem", role: "alert" },
    h("h3", {}, problem.title || "That did not work"),
    places.length > 1 ? h("ul", { tabindex: "0", "aria-label": "Places" }, places) : h("p", {}, problem.message || problem.detail || String(problem)),
    problem.cure && h("p", { class: "cure" }, problem.cure),
    ...more,
    problem.requestId && h("p", { class: "id" }, `Request ${problem.requestId}`));
}

/** Runs `work`; what it throws is shown in `element`. True if it went well. */
export async function attempt(element, work) {
  element.replaceChildren();
  try {
    await work();
    return true;
  } catch (error) {
    if (error.name !== "AbortError") {
      if (!(error instanceof Problem)) console.warn(error);
      fill(element, problemBox(error));
    }
    return false;
  }
}

/** True if the person says yes. */
export function confirm(title, text, yes) {
  const dialog = $("#confirm-dialog");
  $("#confirm-title").textContent = title;
  fill($("#confirm-text"), text);
  $("#confirm-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

/** Opens a dialog that its [data-close] buttons close. */
export function openDialog(dialog) {
  if (!dialog.dataset.bound) {
    dialog.dataset.bound = "1";
    $$("[data-close]", dialog).forEach((button) => button.addEventListener("click", () => dialog.close()));
  }
  dialog.showModal();
}

function askForKey(why) {
  const dialog = $("#key-dialog"), form = $("#key-form"), input = $("#key-input"), told = $("#key-problem");
  $("#key-why").textContent = hasSession() ? `${why[0].toUpperCase()}${why.slice(1)}.` : "Sign in to see its datasets, models and trainings.";
  told.hidden = true;
  input.value = "";
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    form.onsubmit = async (event) => {
      event.preventDefault();
      const key = input.value;
      input.value = "";
      try {
        await send("POST", "/session", { body: { key } });
        dialog.close();
        showSession();
        resolve();
      } catch (problem) {
        told.textContent = problem.status === 401 ? `This is not a key that works here: ${problem.message}.` : problem.message;
        told.hidden = false;
        input.focus();
      }
    };
  });
}

function showSession() { $("#sign-out").hidden = !hasSession(); }

function switchTheme() {
  const isDark = getComputedStyle(document.documentElement).colorScheme === "dark";
  document.documentElement.dataset.theme = isDark ? "light" : "dark";
  try { localStorage.setItem("engram-theme", document.documentElement.dataset.theme); } catch { /* storage may be switched off */ }
  themeListeners.forEach((listener) => listener());
}

let back = [];
/** Called when the service answers again after it was away. */
export const onBack = (listener) => back.push(listener);

connect({
  askForKey,
  onConnection(away) {
    const banner = $("#connection");
    banner.textContent = away ? "The service does not answer. This page goes on as soon as it is back." : "";
    banner.hidden = !away;
    if (!away) { toast("The service is back."); back.forEach((listener) => listener()); }
  },
});
$("#theme").addEventListener("click", switchTheme);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => themeListeners.forEach((listener) => listener()));
$("#sign-out").addEventListener("click", async () => { await send("DELETE", "/session"); location.href = "/"; });
$$("[data-nav]").forEach((link) => { if (link.dataset.nav === location.pathname) link.setAttribute("aria-current", "page"); });
showSession();

/** The name that this page's address ends in, shown and put into the title. */
export function nameOfPage(kind) {
  const name = decodeURIComponent(location.pathname.split("/")[2]);
  if (kind) {
    document.title = `${name} · ${kind} · Engram`;
    $("[data-name]").textContent = name;
  }
  return name;
}

/** Calls `work` every `seconds()` while the page is looked at, and at once when it is again. Returns a function that calls it now. */
export function repeat(work, seconds) {
  let timer = null, running = false;
  const run = async () => {
    clearTimeout(timer);
    if (running) return;
    running = true;
    try { if (!document.hidden) await work(); } finally { running = false; }
    timer = setTimeout(run, seconds() * 1000);
  };
  document.addEventListener("visibilitychange", () => { if (!document.hidden) run(); });
  run();
  return run;
}
