// The events, newest first, announced to screen readers as they arrive.

/** How many entries are kept. */
const KEPT = 60;

const SIGNS = { info: "·", good: "✓", bad: "✕", warning: "!" };

/**
 * Adds an entry; everything in it is set as text.
 * @param {{kind: "info"|"good"|"bad"|"warning", text: string, figure?: string, data?: object}} entry `data` are
 *   facts for scripts: they stand in data- attributes.
 */
export function tell({ kind, text, figure, data = {} }) {
  document.getElementById("timeline-empty").hidden = true;
  const item = document.createElement("li");
  item.dataset.kind = kind;
  Object.assign(item.dataset, data);
  item.append(part("time", clock(new Date())), part("sign", SIGNS[kind], { "aria-hidden": "true" }), part("text", text));
  if (figure) item.append(part("figure", figure));
  const list = document.getElementById("timeline");
  list.prepend(item);
  if (list.childElementCount > KEPT) list.lastElementChild.remove();
}

function part(name, text, attributes = {}) {
  const element = document.createElement(name === "time" ? "time" : "span");
  element.className = name;
  element.textContent = text;
  for (const [attribute, value] of Object.entries(attributes)) element.setAttribute(attribute, value);
  return element;
}

/** 14:03:07.042, in the visitor's time. */
function clock(now) {
  const two = (number) => String(number).padStart(2, "0");
  const seconds = `${two(now.getSeconds())}.${String(now.getMilliseconds()).padStart(3, "0")}`;
  return `${two(now.getHours())}:${two(now.getMinutes())}:${seconds}`;
}
