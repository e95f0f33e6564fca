// "Train a model": the horizon suggested, everything else chosen from the data. One press opens it, one starts it.

import { at, get, post } from "./api.js";
import { $ } from "./dom.js";
import { suggestHorizon, unit } from "./format.js";
import { attempt, openDialog } from "./shell.js";

export const startTraining = (model, body) => post(at("models", model, "trainings"), body);
export const pageOf = (training) => `/trainings/${training.id}`;

/** Opens the dialog for a dataset as GET /v1/datasets/{dataset} describes it; its submit goes on to the training's page. */
export function askToTrain(dataset) {
  const dialog = $("#train-dialog"), form = $("#train-form");
  const typical = dataset.series ? dataset.observations / dataset.series : 0;
  const [horizon, why] = suggestHorizon(dataset.freq, typical);
  $("[data-dataset]", form).textContent = dataset.name;
  $("[data-unit]", form).textContent = unit(dataset.freq);
  $("[data-why]", form).textContent = why;
  $("#train-horizon").value = horizon;
  $("#train-model").value = dataset.name;
  $("[data-problem]", form).replaceChildren();
  const submit = $("[type=submit]", form);
  submit.disabled = false;
  form.onsubmit = async (event) => {
    event.preventDefault();
    submit.disabled = true;
    await attempt($("[data-problem]", form), async () => {
      const body = { dataset: dataset.name, horizon: Number($("#train-horizon").value) };
      location.href = pageOf(await startTraining($("#train-model").value.trim(), body));
    });
    submit.disabled = false;
  };
  openDialog(dialog);
  submit.focus();
}

export const trainOn = async (name) => askToTrain(await get(at("datasets", name)));
