// A file is dropped, looked at by the service without being stored, shown, and sent when the person says so.

import { at, get, send } from "./api.js";
import { $, $$, facts, fill, h, table } from "./dom.js";
import { count, moment, number, plural } from "./format.js";
import { attempt, problemBox } from "./shell.js";
import { askToTrain } from "./train.js";

const MAX_BYTES = 256 * 2 ** 20;
const PREVIEW_BYTES = 4 * 2 ** 20;
const TYPES = { csv: "text/csv", parquet: "application/vnd.apache.parquet", pq: "application/vnd.apache.parquet" };
const ROLES = ["series", "timestamp", "value"];

const toName = (file) => file.name.toLowerCase().replace(/\.[a-z]+$/, "").replace(/[^a-z0-9._-]+/g, "-").replace(/^[^a-z0-9]+/, "").slice(0, 64) || "data";

/** Every [data-drop] of the page. `name`: the dataset, where the page has one; `onStored(receipt)`: what the page does then. */
export function watchDrops({ name = null, onStored = () => {} } = {}) {
  for (const root of $$("[data-drop]")) {
    const input = $("[data-file]", root), zone = $(".drop-zone", root);
    const take = (file) => file && new Drop(root, file, name, onStored).begin();
    input.addEventListener("change", () => { take(input.files[0]); input.value = ""; });
    for (const kind of ["dragover", "dragleave", "drop"]) {
      zone.addEventListener(kind, (event) => {
        event.preventDefault();
        zone.classList.toggle("over", kind === "dragover");
        if (kind === "drop") take(event.dataTransfer.files[0]);
      });
    }
  }
  for (const kind of ["dragover", "drop"]) window.addEventListener(kind, (event) => event.preventDefault());
}

class Drop {
  constructor(root, file, name, onStored) {
    Object.assign(this, { root, file, onStored, stage: $("[data-stage]", root), type: TYPES[file.name.split(".").pop().toLowerCase()] });
    this.fixed = name;
    this.name = name || toName(file);
    this.query = {};
  }

  begin() {
    if (!this.type) return this.refuse(`${this.file.name} is neither .csv nor .parquet.`, "Save it as CSV in UTF-8, or as Parquet, and drop it again.");
    if (this.file.size > MAX_BYTES) return this.refuse(`${this.file.name} has ${count(Math.round(this.file.size / 2 ** 20))} MiB; at most 256 are taken at once.`, "Split it, or use engram import, which sends files of any size in parts.");
    return this.look();
  }

  refuse(message, cure) { fill(this.stage, problemBox({ title: "This file cannot be sent", message, cure })); }

  /** All of it, or of a long CSV the beginning, up to the end of a line. */
  async sample() {
    if (this.type !== "text/csv" || this.file.size <= 4 * PREVIEW_BYTES) return [this.file, true];
    const bytes = new Uint8Array(await this.file.slice(0, PREVIEW_BYTES).arrayBuffer());
    return [bytes.slice(0, bytes.lastIndexOf(10) + 1), false];
  }

  async look() {
    fill(this.stage, h("p", { class: "hint" }, `Looking at ${this.file.name} …`));
    try {
      const [body, isWhole] = await this.sample();
      const answer = await send("POST", at("datasets", this.name, "observations", "preview"), { body, type: this.type, query: this.query });
      this.show(await answer.json(), isWhole);
    } catch (problem) {
      if (!problem.slug) throw problem;
      fill(this.stage, problemBox(problem, h("p", { class: "hint" }, `${this.file.name} was looked at, and nothing of it was stored.`)), this.columnsForm(problem));
    }
  }

  /** Where the columns were the trouble: leave others out, or say which is which. */
  columnsForm(problem) {
    if (problem.slug !== "invalid-observations" || problem.errors.some((one) => one.row !== undefined) || !problem.errors.length) return null;
    const inputs = ROLES.map((role) => h("input", { id: `column-${role}`, value: this.query[`${role}_column`] || "", placeholder: "recognised by its name", autocomplete: "off" }));
    const others = h("input", { type: "checkbox", id: "column-others", checked: true });
    const submit = (event) => {
      event.preventDefault();
      this.query = { ignore_columns: others.checked || null };
      ROLES.forEach((role, index) => { this.query[`${role}_column`] = inputs[index].value.trim() || null; });
      this.look();
    };
    return h("form", { class: "preview", onsubmit: submit },
      h("div", { class: "fields" }, ROLES.map((role, index) => h("div", { class: "field" }, h("label", { for: `column-${role}` }, `Column of the ${role}`), inputs[index]))),
      h("label", {}, others, " Leave all other columns out"),
      h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Look again"), this.forget("Cancel")));
  }

  forget(text) { return h("button", { type: "button", class: "quiet", onclick: () => fill(this.stage) }, text); }

  show(preview, isWhole) {
    const { receipt, columns, time_zone: zone, observations } = preview;
    const time = (at_) => moment(at_, receipt.freq, zone);
    const told = facts(h("dl", { class: "facts" }), [
      ["Series", columns && !columns.series ? "1, all rows" : h("span", {}, count(receipt.series), columns && h("span", { class: "thin" }, ` by “${columns.series}”`))],
      ["Time", columns && `“${columns.timestamp}”`], ["Value", columns && `“${columns.value}”`],
      ["Freq", receipt.freq], ["Time zone", zone],
      ["From – to", `${time(receipt.first_timestamp)} – ${time(receipt.last_timestamp)}`],
      [isWhole ? "Observations" : "In its first 4 MiB", count(receipt.received)],
      ["Missing", count(receipt.missing)], ["Gaps", count(receipt.gaps)],
      ["Would change", receipt.updated ? count(receipt.updated) : null], ["Already there", receipt.unchanged ? count(receipt.unchanged) : null],
    ]);
    const nameInput = h("input", { id: "drop-name", value: this.name, pattern: "[a-z0-9][a-z0-9._\\-]{0,63}", required: true, autocomplete: "off", spellcheck: "false" });
    const problem = h("div");
    const submit = (event) => { event.preventDefault(); this.store(this.fixed || nameInput.value.trim(), problem); };
    fill(this.stage, h("form", { class: "preview", onsubmit: submit },
      h("h3", {}, `This is what ${this.file.name} was read as`), told,
      receipt.warnings.map((warning) => h("p", { class: "note" }, warning)),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "First observations" }, table([
        { title: "series", of: (row) => row.series }, { title: "timestamp", class: "nowrap", of: (row) => time(row.timestamp) },
        { title: "value", number: true, of: (row) => (row.value === null ? h("span", { class: "chip warn" }, "missing") : number(row.value, 8)) },
      ], observations, { caption: "First observations" })),
      this.fixed ? null : h("div", { class: "field" }, h("label", { for: "drop-name" }, "Name of the dataset"), nameInput, h("p", { class: "hint" }, "A dataset of this name gets the observations added.")),
      problem,
      h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, isWhole ? `Store ${plural(receipt.received, "observation")}` : "Store the whole file"), this.forget("Cancel"))));
    $("[type=submit]", this.stage).focus();
  }

  async store(name, problem) {
    const button = $("[type=submit]", this.stage);
    button.disabled = true;
    await attempt(problem, async () => {
      const answer = await send("POST", at("datasets", name, "observations"), { body: this.file, type: this.type, query: this.query });
      const receipt = await answer.json();
      const dataset = await get(at("datasets", name));
      this.showReceipt(receipt, dataset);
      this.onStored(receipt);
    });
    button.disabled = false;
  }

  showReceipt(receipt, dataset) {
    fill(this.stage, h("div", { class: "receipt" },
      h("h3", {}, "Stored"),
      facts(h("dl", { class: "facts" }), [
        ["Dataset", receipt.dataset], ["Series", count(receipt.series)], ["Received", count(receipt.received)], ["New", count(receipt.inserted)],
        ["Changed", count(receipt.updated)], ["As before", count(receipt.unchanged)], ["Missing", count(receipt.missing)], ["Gaps", count(receipt.gaps)],
      ]),
      receipt.warnings.map((warning) => h("p", { class: "note" }, warning)),
      h("div", { class: "actions" },
        h("button", { type: "button", class: "primary", onclick: () => askToTrain(dataset) }, "Train a model"),
        this.fixed ? null : h("a", { class: "button", href: `/datasets/${receipt.dataset}` }, "See the dataset"),
        this.forget("Done"))));
  }
}
