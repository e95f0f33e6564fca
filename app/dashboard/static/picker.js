// A combobox for one series among many: what is typed is looked up at the service, by how the ids begin.

import { at, get } from "./api.js";
import { fill, h } from "./dom.js";

const SHOWN = 30;

/** Keys: down and up move, Enter takes, Escape closes. `onPick(id)`. */
export function makePicker(input, options, dataset, onPick) {
  let items = [], chosen = -1, asked = null, value = input.value, timer = null;
  const show = (isOpen) => {
    options.hidden = !isOpen;
    input.setAttribute("aria-expanded", String(isOpen));
    if (!isOpen) input.removeAttribute("aria-activedescendant");
  };
  const mark = (index) => {
    chosen = index;
    [...options.children].forEach((option, position) => option.setAttribute("aria-selected", String(position === index)));
    if (index >= 0 && items.length) { input.setAttribute("aria-activedescendant", `${options.id}-${index}`); options.children[index].scrollIntoView({ block: "nearest" }); }
  };
  const pick = (id) => {
    value = input.value = id;
    show(false);
    onPick(id);
  };
  const look = async (prefix) => {
    asked?.abort();
    asked = new AbortController();
    try {
      const answer = await get(at("datasets", dataset, "series"), { limit: SHOWN, prefix }, { signal: asked.signal });
      items = answer.items.map((one) => one.id);
      fill(options, items.length ? items.map((id, index) => h("li", { role: "option", id: `${options.id}-${index}`, onmousedown: (event) => { event.preventDefault(); pick(id); } }, id))
        : h("li", { role: "option", class: "none", "aria-disabled": "true" }, `No series begins with “${prefix}”`));
      if (answer.next_cursor) options.append(h("li", { role: "option", class: "none", "aria-disabled": "true" }, "More: go on typing"));
      show(true);
      mark(items.indexOf(value));
    } catch (error) { if (error.name !== "AbortError") show(false); }
  };
  input.addEventListener("focus", () => { input.select(); look(""); });
  input.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => look(input.value), 120); });
  input.addEventListener("blur", () => { show(false); input.value = value; });
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      if (options.hidden) look(""); else if (items.length) mark((chosen + (event.key === "ArrowDown" ? 1 : -1) + items.length) % items.length);
    } else if (event.key === "Enter" && !options.hidden) {
      event.preventDefault();
      if (items.length) pick(items[Math.max(chosen, 0)]);
    } else if (event.key === "Escape") show(false);
  });
  return { set: (id) => { value = input.value = id; } };
}
