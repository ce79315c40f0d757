// The tiles of A, B and C: the last answer of each, in words, figures and a strip of the answers before it.

/** How many answers the strip keeps. */
const KEPT = 30;
/** The latency that fills the strip, in milliseconds; more looks the same. */
const FULL = 20;

const VERDICTS = {
  allowed: ["✓", "Allowed"],
  refused: ["✕", "Refused"],
  unavailable: ["!", "No answer"],
};
const TOKENS = { own: "your token", stolen: "the stolen token", none: "no token" };

/** What an answer means: 2xx came from the service, 4xx from Doorward, all else is an outage. */
export function verdict({ status }) {
  if (status >= 200 && status < 300) return "allowed";
  return status >= 400 && status < 500 ? "refused" : "unavailable";
}

export class Tile {
  #root;

  constructor(service, parent) {
    const tile = document.getElementById("tile").content.cloneNode(true).firstElementChild;
    tile.dataset.service = service;
    this.#root = tile;
    this.#text("h3", service);
    parent.append(tile);
  }

  /** Shows an answer to `own`, `stolen` or no token (`none`). All of it comes from outside, and is set as text. */
  show(answer, which) {
    const state = verdict(answer);
    const [sign, word] = VERDICTS[state];
    this.#root.dataset.state = state;
    this.#root.dataset.with = which;
    this.#text(".verdict", `${sign} ${word}`);
    this.#text(".latency .figure", answer.ms.toFixed(1));
    this.#text(".reason", reason(answer));
    this.#text(".with", TOKENS[which]);
    this.#text(".saw", saw(answer, state));
    if (which !== "none") this.#mark(answer.ms, state);
  }

  /** Whether the last answer was this one, to this token. */
  shows(state, which) {
    return this.#root.dataset.state === state && this.#root.dataset.with === which;
  }

  #text(selector, text) {
    const element = this.#root.querySelector(selector);
    if (element.textContent !== text) element.textContent = text;
  }

  #mark(ms, state) {
    const strip = this.#root.querySelector(".strip");
    const bar = document.createElement("span");
    bar.dataset.state = state;
    bar.style.setProperty("--height", Math.min(1, 0.15 + ms / FULL));
    strip.append(bar);
    if (strip.childElementCount > KEPT) strip.firstElementChild.remove();
  }
}

/** The status and the reason, which only a refusal names: Doorward a `reason`, Accounts an `error`. */
export function reason({ status, body }) {
  if (status === 0) return "no answer";
  const named = [body.reason, body.error].find((text) => typeof text === "string");
  return `${status} ${named ?? (status < 300 ? "ok" : "")}`.trim();
}

/** Whom Envoy and Doorward named to the service. */
function saw({ body }, state) {
  if (state !== "allowed") return "nothing at all";
  return typeof body.user === "string" ? `x-user-id: ${body.user}` : "nobody’s name";
}
