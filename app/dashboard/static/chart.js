// plotly.js, loaded when the first chart is drawn, in the colours of the page.

import { $, fill, h } from "./dom.js";
import { onTheme } from "./shell.js";

let loading = null;
/** The library; it is a script of the classic kind, 1.5 MB on the wire, once. */
export function plotly() {
  loading ||= new Promise((resolve, reject) => {
    const script = h("script", { src: $('meta[name="plotly"]').content });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => { loading = null; reject(new Error("The chart library could not be loaded; reload the page.")); };
    document.head.append(script);
  });
  return loading;
}

/** A colour of style.css. */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

const drawn = new Map();
onTheme(() => drawn.forEach((make, element) => { if (element.isConnected) render(element, make); }));
const CONFIG = { responsive: true, displaylogo: false, displayModeBar: false, doubleClick: "reset", scrollZoom: false, showTips: false };

/** Draws what `make()` gives, {traces, layout}; it is asked again when the colours change. */
export async function draw(element, make) {
  drawn.set(element, make);
  await plotly();
  if (drawn.get(element) === make) await render(element, make);
}

async function render(element, make) {
  const { traces, layout } = make();
  const axis = {
    gridcolor: colour("grid"), linecolor: colour("line-strong"), tickcolor: colour("line-strong"), zeroline: false, automargin: true, ticks: "outside", ticklen: 4,
    spikethickness: 1, spikecolor: colour("line-strong"), spikedash: "solid",
    tickfont: { size: 12, color: colour("quiet") },
  };
  // No standoff: with few ticks plotly.js looks for labels to stand off from before there are any, and writes errors into the console.
  const titled = (own) => ({ ...axis, ...own, title: { text: own?.title, font: { size: 12, color: colour("quiet") } } });
  if (!element.querySelector(".plot-container")) element.replaceChildren();
  await window.Plotly.react(element, traces, {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", hovermode: "x unified", dragmode: "zoom", margin: { l: 12, r: 14, t: 8, b: 12 },
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: colour("ink") },
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", traceorder: "normal", font: { size: 12, color: colour("ink") }, itemclick: "toggle" },
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line-strong"), font: { size: 12, color: colour("ink") }, align: "left" },
    height: element.clientHeight || Number.parseFloat(getComputedStyle(element).minHeight),
    ...layout, xaxis: titled(layout.xaxis), yaxis: titled(layout.yaxis),
  }, CONFIG);
}

/** In the place of a chart that has nothing to draw. */
export function blank(element, ...children) {
  drawn.delete(element);
  if (window.Plotly && element.querySelector(".plot-container")) window.Plotly.purge(element);
  fill(element, h("div", { class: "empty" }, ...children));
}

/** The chart as a PNG of twice its size on the page's ground. */
export async function toPng(element, title) {
  const Plotly = await plotly();
  const figure = { data: element.data, layout: { ...element.layout, paper_bgcolor: colour("surface"), title: { text: title, x: 0.02, font: { size: 16 } }, margin: { l: 12, r: 14, t: 64, b: 12 } } };
  const url = await Plotly.toImage(figure, { format: "png", width: Math.max(element.clientWidth, 900), height: 480, scale: 2 });
  return new Blob([Uint8Array.from(atob(url.split(",")[1]), (letter) => letter.charCodeAt(0))], { type: "image/png" });
}

/** (low, high) levels of the bands that a set of quantile levels makes, widest first: "0.025","0.975" -> {low, high, share: 0.95}. */
export function bandsOf(levels) {
  const lower = levels.filter((level) => level < 0.5);
  return lower.map((low) => ({ low, high: levels.find((level) => Math.abs(level - (1 - low)) < 1e-9) }))
    .filter((band) => band.high !== undefined)
    .map((band) => ({ ...band, share: Number((band.high - band.low).toFixed(6)) }));
}

const bandColour = (share) => colour(share > 0.9 ? "band-95" : share > 0.65 ? "band-80" : "band-50");

/** Traces of one forecast: x, {median, quantiles}, from `from` = [x, value] of the last value seen, if there is one. */
export function fanTraces(x, forecast, { from = null, legend = true, text = String } = {}) {
  const start = from ? [from[0]] : [], startValue = from ? [from[1]] : [];
  const bands = bandsOf(Object.keys(forecast.quantiles).map(Number).sort((a, b) => a - b));
  const polygons = bands.map((band) => {
    const low = forecast.quantiles[band.low], high = forecast.quantiles[band.high], along = [...start, ...x];
    return {
      x: [...along, ...along.toReversed()], y: [...startValue, ...high, ...[...startValue, ...low].toReversed()], type: "scatter", mode: "lines", fill: "toself",
      fillcolor: bandColour(band.share), line: { width: 0 }, hoverinfo: "skip", name: `${Math.round(band.share * 1000) / 10} %`, legendgroup: `band${band.share}`, showlegend: legend,
    };
  });
  const told = x.map((_, index) => bands.toReversed().map((band) => `${Math.round(band.share * 1000) / 10} %: ${text(forecast.quantiles[band.low][index])} – ${text(forecast.quantiles[band.high][index])}`).join("<br>"));
  const line = { color: colour("median"), width: 2.2 };
  const traces = [...polygons, {
    x, y: forecast.median, customdata: told, type: "scatter", mode: x.length === 1 ? "lines+markers" : "lines", line, marker: { size: 7, color: line.color }, name: "Median", legendgroup: "median", showlegend: legend,
    hovertemplate: "<b>%{text}</b><br>%{customdata}<extra>Forecast</extra>", text: forecast.median.map((value) => text(value)),
  }];
  if (from) traces.push({ x: [from[0], x[0]], y: [from[1], forecast.median[0]], type: "scatter", mode: "lines", line: { ...line, width: 1.2, dash: "dot" }, hoverinfo: "skip", showlegend: false });
  return traces;
}
