// Numbers, times and verdicts as people read them.

const whole = new Intl.NumberFormat("en");
export const count = (value) => whole.format(value);
export const plural = (value, one, many = one + "s") => `${count(value)} ${value === 1 ? one : many}`;

/** Four figures that count, as an axis or a table wants them. */
export function number(value, figures = 4) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e7 || (size > 0 && size < 1e-4)) return value.toExponential(2);
  if (size >= 1000) return whole.format(Math.round(value));
  return String(Number(value.toPrecision(figures)));
}
export const percent = (value, digits = 0) => (value === null || value === undefined ? "–" : `${(100 * value).toFixed(digits)} %`);

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.95) return "under a second";
  if (seconds < 90) return `${seconds < 10 ? Number(seconds.toFixed(1)) : Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h`;
  return plural(Math.round(seconds / 86_400), "day");
}

export function ago(timestamp) {
  const seconds = (Date.now() - Date.parse(timestamp)) / 1000;
  if (seconds < 0) return "ahead of now";
  if (seconds < 10) return "just now";
  if (seconds < 86_400 * 60) return `${duration(seconds)} ago`;
  if (seconds < 86_400 * 730) return `${Math.round(seconds / 2_629_800)} months ago`;
  return `${Math.round(seconds / 31_557_600)} years ago`;
}

/** What one step of a freq is called. */
export function unit(freq, many = true) {
  if (!freq || freq === "step") return many ? "steps" : "step";
  const [, multiple, kind] = /^(\d*)(.*)$/.exec(freq);
  const name = { s: "second", min: "minute", h: "hour", D: "day", B: "working day", MS: "month", ME: "month" }[kind]
    || (kind.startsWith("W") ? "week" : kind.startsWith("Q") ? "quarter" : kind.startsWith("Y") ? "year" : "step");
  if (multiple && multiple !== "1") return many ? `steps of ${multiple} ${name}s` : `${multiple} ${name}s`;
  return many ? name + "s" : name;
}

const UNIT_SECONDS = { s: 1, min: 60, h: 3600, D: 86_400, B: 86_400 };
export function stepSeconds(freq) {
  if (!freq || freq === "step") return null;
  const [, multiple, kind] = /^(\d*)(.*)$/.exec(freq);
  const one = UNIT_SECONDS[kind] || (kind.startsWith("W") ? 604_800 : kind.startsWith("M") ? 2_629_800 : kind.startsWith("Q") ? 7_889_400 : 31_557_600);
  return one * (Number(multiple) || 1);
}

/** A horizon that suits a freq, never more than a quarter of what a series has: [steps, why]. */
export function suggestHorizon(freq, points) {
  const day = 86_400 / (stepSeconds(freq) || 86_400);
  const [steps, why] = !freq || freq === "step" ? [12, "A dozen steps; the data has no calendar."]
    : /(s|min|h)$/.test(freq) ? (day <= 1 ? [14, "Two weeks of days."] : day <= 288 ? [Math.round(day <= 24 ? 2 * day : day), `The next ${day <= 24 ? "two days" : "day"}.`] : [60, `Sixty ${unit(freq)}.`])
    : freq === "D" ? [14, "The next two weeks."] : freq === "B" ? [10, "The next two working weeks."]
    : freq.startsWith("W") ? [13, "The next quarter."] : freq.startsWith("M") ? [12, "The next year."]
    : freq.startsWith("Q") ? [8, "The next two years."] : [5, "The next five years."];
  const most = Math.max(1, Math.floor(points / 4));
  return steps <= most ? [steps, why] : [most, "A quarter of what a typical series has, which is short."];
}

const zones = new Map();
/** The wall clock of a time zone, as Plotly and the API take it: "2024-01-31 14:00:00". Integers stay. */
export function wall(timestamp, zone) {
  if (typeof timestamp !== "string") return timestamp;
  if (!zone || zone === "UTC") return timestamp.replace("T", " ").replace("Z", "");
  if (!zones.has(zone)) zones.set(zone, new Intl.DateTimeFormat("sv-SE", { timeZone: zone, dateStyle: "short", timeStyle: "medium" }));
  return zones.get(zone).format(new Date(timestamp));
}

/** As short as the freq allows: "Jan 1961", "2024-01-31", "2024-01-31 14:00". */
export function moment(timestamp, freq, zone) {
  if (timestamp === null || timestamp === undefined) return "–";
  if (typeof timestamp !== "string") return count(timestamp);
  const text = wall(timestamp, zone);
  const kind = (freq || "").replace(/^\d+/, "");
  if (/^M/.test(kind)) return `${["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"][Number(text.slice(5, 7)) - 1]} ${text.slice(0, 4)}`;
  if (/^Y/.test(kind)) return text.slice(0, 4);
  if (/^(D|B|W|Q)/.test(kind)) return text.slice(0, 10);
  return kind === "s" ? text.slice(0, 19) : text.slice(0, 16);
}

/** How a model does beside seasonal naive: {text, tone, mark}. The mark says it without colour. */
export function verdict(metrics) {
  const skill = metrics?.skill;
  if (skill === null || skill === undefined) return { text: "Not scored: too little data to hold any back", tone: "", mark: "○" };
  const size = Math.round(Math.abs(skill) * 100);
  if (skill >= 0.005) return { text: `Errs ${size || "under 1"} % less than seasonal naive`, tone: "good", mark: "▲" };
  if (size === 0) return { text: "Not better than seasonal naive: errs as much", tone: "warn", mark: "■" };
  return { text: `Not better than seasonal naive: errs ${size} % more`, tone: "bad", mark: "▼" };
}

export const STATUS_TONES = { queued: "", running: "accent", succeeded: "good", failed: "bad", cancelled: "warn" };
