// Elements from text, never from markup: nothing that a dataset is called can become code.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** h("td", {class: "number", onclick}, "text", element, null) */
export function h(name, props = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.className = value;
    else if (key === "value" || key === "checked") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(3)) if (child !== null && child !== undefined && child !== false) element.append(child);
}

/** Puts `children` in the place of all there is, and says that it is no longer busy. */
export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  element.removeAttribute("aria-busy");
  return element;
}

/** columns: [{title, of: row => cell, number?, class?}]; the first column heads its row. */
export function table(columns, rows, { caption, rowProps = () => ({}) } = {}) {
  const kind = (column) => [column.number && "number", column.class].filter(Boolean).join(" ") || null;
  return h("table", {},
    caption && h("caption", { class: "visually-hidden" }, caption),
    h("thead", {}, h("tr", {}, columns.map((column) => h("th", { scope: "col", class: kind(column), title: column.hint }, column.title)))),
    h("tbody", {}, rows.map((row) => h("tr", rowProps(row), columns.map((column) => h("td", { class: kind(column) }, column.of(row)))))));
}

export const facts = (element, pairs) => fill(element, pairs.filter(([, value]) => value !== null && value !== undefined)
  .map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));

export const empty = (...children) => h("div", { class: "empty" }, ...children);

/** A small line, its last point marked. */
export function sparkline(values, width = 120, height = 28) {
  const svg = (name, attributes) => {
    const element = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return element;
  };
  const picture = svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
  const seen = values.filter((value) => value !== null);
  if (!seen.length) return picture;
  const low = Math.min(...seen), span = Math.max(...seen) - low || 1;
  const x = (index) => 2 + (index / Math.max(values.length - 1, 1)) * (width - 6);
  const y = (value) => height - 3 - ((value - low) / span) * (height - 6);
  let path = "", pen = "M";
  values.forEach((value, index) => {
    if (value === null) { pen = "M"; return; }
    path += `${pen}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
  });
  const last = values.findLastIndex((value) => value !== null);
  picture.append(svg("path", { d: path }), svg("circle", { cx: x(last), cy: y(values[last]), r: 2.2 }));
  return picture;
}

/** Hands text or bytes to the browser as a file. */
export function download(name, blob) {
  const link = h("a", { href: URL.createObjectURL(blob), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
