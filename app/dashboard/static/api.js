// The public API, as any other client uses it. A read waits for a service that is away; what changes something is sent once.

export const CURES = {
  "unauthorized": "Sign in with a key of this service.",
  "forbidden": "Sign in with a key that has this scope; whoever runs the service makes keys.",
  "not-found": "Look at the name, or go back to the overview.",
  "no-trained-version": "Wait for its training, or start one.",
  "horizon-too-long": "Ask for a shorter horizon, or train again with a longer one.",
  "training-ended": "Nothing is left to cancel. Reload the page to see how it ended.",
  "dataset-not-empty": "Delete its observations first, or take another name.",
  "invalid-observations": "Correct these rows in the file and drop it again. Nothing was stored.",
  "off-grid": "Send timestamps on the grid, or make the dataset with an aggregate. Nothing was stored.",
  "duplicate-observations": "Keep one row for each timestamp of a series. Nothing was stored.",
  "freq-undetermined": "Send at least two timestamps of a series. Nothing was stored.",
  "span-too-long": "Look at the unit of the timestamps. Nothing was stored.",
  "nothing-to-learn": "A training needs a series with at least two values. Add observations first.",
  "body-too-large": "Split the file: parts may come in any order, and twice.",
  "unsupported-media-type": "Send CSV in UTF-8, or Parquet.",
  "context-too-short": "Add observations, or ask for a shorter context.",
  "worker-lost": "Look at the worker's log; more memory, or a smaller network, may help. Then train again.",
  "out-of-memory": "Train again with a smaller network or batch, or on a machine with more memory.",
  "time-limit": "Train again with fewer steps, or raise ENGRAM_MAX_TRAINING_SECONDS.",
  "training-diverged": "Train again with a lower learning rate, and look at the data for wild values.",
  "artifact-corrupt": "Promote another version, and train again.",
  "unavailable": "Try again in a moment.",
  "overloaded": "Try again in a moment.",
  "rate-limited": "Wait a moment, then go on.",
  "disk-full": "Whoever runs the service must make room; nothing was lost.",
  "internal-error": "Look for this request id in the service's log.",
  "unreachable": "Check that the service runs, and look again before you repeat it: it may have been done.",
};

export class Problem extends Error {
  constructor(body, status = body.status) {
    super(body.detail || body.title || `The service answered with status ${status}`);
    this.status = status;
    this.title = body.title || "That did not work";
    this.slug = String(body.type || "").replace("/problems/", "");
    this.errors = body.errors || [];
    this.requestId = body.request_id;
    this.body = body;
  }
  get cure() { return CURES[this.slug] || "Correct what is named here and try again."; }
}

const state = { away: false, onConnection: () => {}, askForKey: null, asking: null };

/** What the shell does when the service goes away or comes back, and when a key is asked for. */
export function connect({ onConnection, askForKey }) { Object.assign(state, { onConnection, askForKey }); }

function setAway(away) {
  if (away !== state.away) { state.away = away; state.onConnection(away); }
}

function readCookie(name) {
  const found = document.cookie.split("; ").find((part) => part.startsWith(name + "="));
  return found ? decodeURIComponent(found.slice(name.length + 1)) : "";
}

export function hasSession() { return readCookie("engram_csrf") !== ""; }

const wait = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

function toQuery(query) {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(query || {})) {
    for (const one of Array.isArray(value) ? value : [value]) if (one !== null && one !== undefined && one !== "") pairs.append(name, one);
  }
  const text = pairs.toString();
  return text ? "?" + text : "";
}

/** The Response, ok. Throws a Problem. A GET is repeated until the service answers (unless `patient` is false). */
export async function send(method, path, { query, body, type, accept, signal, patient = method === "GET" } = {}) {
  const isJson = body !== undefined && type === undefined;
  for (let attempt = 0; ; attempt += 1) {
    const headers = { Accept: accept || "application/json" };
    if (body !== undefined) headers["Content-Type"] = type || "application/json";
    if (method !== "GET" && hasSession()) headers["X-CSRF-Token"] = readCookie("engram_csrf");
    let answer = null;
    try {
      answer = await fetch(path + toQuery(query), { method, headers, body: isJson ? JSON.stringify(body) : body, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
    }
    if (answer && answer.ok) { setAway(false); return answer; }
    const isAway = !answer || [502, 503, 504].includes(answer.status);
    if (isAway && patient) {
      setAway(true);
      await wait(Math.min(500 * 2 ** attempt, 3000));
      continue;
    }
    if (!answer) {
      setAway(true);
      throw new Problem({ type: "/problems/unreachable", title: "The service does not answer", detail: "The service could not be reached, so it is not certain whether this was done." }, 0);
    }
    setAway(false);
    const problem = new Problem(await answer.json().catch(() => ({})), answer.status);
    if (answer.status !== 401 || !state.askForKey || path === "/session") throw problem;
    state.asking ||= state.askForKey(problem.message).finally(() => { state.asking = null; });
    await state.asking;
  }
}

export const get = async (path, query, options) => (await send("GET", path, { query, ...options })).json();
export const post = async (path, body, options) => (await send("POST", path, { body, ...options })).json();
export const put = async (path, body) => (await send("PUT", path, { body })).json();

export const at = (...parts) => "/v1/" + parts.map(encodeURIComponent).join("/");

/** All items of a list, page after page, `most` of them at most. */
export async function list(path, query = {}, most = 1000) {
  const items = [];
  let cursor = null;
  do {
    const page = await get(path, { limit: Math.min(most - items.length, 1000), ...query, cursor });
    items.push(...page.items);
    cursor = page.next_cursor;
  } while (cursor && items.length < most);
  return items;
}
