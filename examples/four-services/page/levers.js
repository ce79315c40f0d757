// The levers: what breaks while the page goes on asking. They are there when `envoy/demo.sh` says what it started.

import { broken, nameStore } from "./stage.js";
import { tell } from "./timeline.js";

/** How often the Doorwards are looked at, in milliseconds. */
const EVERY = 1000;

/** Of each lever: what its button says, let go and pulled, and what follows, then. */
const LEVERS = {
  redis: [
    ["Unplug Redis", "Plug Redis in again"],
    (seen) => [
      `Redis is unplugged. Each Doorward decides by the list in its memory, until that is ${seen.max_staleness_ms / 1000} s old; then it refuses everybody.`,
      "Redis is back.",
    ],
  ],
  doorward: [
    ["Freeze a Doorward", "Let it go on"],
    (seen) => [`The Doorward of ${seen.frozen} is frozen. Envoy gets no answer and lets nobody in at ${seen.frozen}.`, `The Doorward of ${seen.frozen} goes on.`],
  ],
  flush: [
    ["Flush Redis", "Flush Redis"],
    () => ["", "Redis forgot everything. The Doorwards notice, and put back what it lost: who was signed out stays out."],
  ],
  clock: [
    ["Step a clock", "Set the clock right"],
    (seen) => [
      `The clock of ${seen.clock}’s Doorward is ten minutes ahead: by it, every token has expired and every sign-out is over.`,
      `The clock of ${seen.clock}’s Doorward is right again, and who was signed out stays out.`,
    ],
  ],
};

export class Levers {
  #root;
  #seen = null;
  #pulling = false;

  constructor(root) {
    this.#root = root;
    root.querySelector(".levers").addEventListener("click", (event) => {
      const lever = event.target.closest("button")?.dataset.lever;
      if (lever) this.#pull(lever);
    });
  }

  /** What was seen last; null before, and where nothing can be pulled. */
  get seen() {
    return this.#seen?.levers.length ? this.#seen : null;
  }

  /** What keeps the services from answering as they should, looked up now; null when nothing does. */
  async trouble() {
    await this.#look();
    if (!this.seen) return null;
    const { pulled, frozen, clock, doorwards, max_staleness_ms: most } = this.seen;
    if (pulled.redis) return "Redis is unplugged";
    if (pulled.doorward) return `the Doorward of ${frozen} is frozen`;
    if (pulled.clock) return `the clock of ${clock}’s Doorward is ten minutes ahead`;
    const late = doorwards.find(({ view_age_ms: age }) => age === null || age > most);
    return late ? `the view of ${late.name}’s Doorward is too old` : null;
  }

  /** Looks once; and again and again where there is something to pull. */
  async start() {
    await this.#look();
    if (!this.#seen) return;
    nameStore(this.#seen);
    const links = this.#seen.links.map(([title, url]) => {
      const link = document.createElement("a");
      link.href = url;
      link.textContent = title;
      return link;
    });
    document.getElementById("links").append(...links.flatMap((link) => [" · ", link]));
    this.#root.hidden = false;
    if (this.#seen.levers.length === 0) return;
    this.#root.querySelector(".hint").hidden = true;
    this.#root.querySelector(".breaking").hidden = false;
    this.#root.querySelector(".levers").replaceChildren(...this.#seen.levers.map((lever) => {
      const button = document.createElement("button");
      button.dataset.lever = lever;
      return button;
    }));
    this.#show();
    setInterval(() => this.#look(), EVERY);
  }

  async #look() {
    try {
      const response = await fetch("/page/stage.json", { cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(4000) });
      if (!response.ok) return;
      this.#seen = await response.json();
      if (this.#seen.levers.length > 0 && !this.#root.hidden) this.#show();
    } catch {
      // The next look says more.
    }
  }

  async #pull(lever) {
    if (this.#pulling) return; // A second click would let go at once of what the first one pulled.
    this.#pulling = true;
    try {
      await this.#pullOnce(lever);
    } finally {
      this.#pulling = false;
    }
  }

  async #pullOnce(lever) {
    const button = this.#root.querySelector(`[data-lever="${lever}"]`);
    button.setAttribute("aria-disabled", "true");
    const answer = await fetch(`/page/stage/${lever}`, { method: "POST", headers: { "x-demo": "stage" } }).catch(() => null);
    await this.#look();
    button.removeAttribute("aria-disabled");
    const isPulled = this.#seen.pulled[lever] ?? false;
    const [pulled, back] = LEVERS[lever][1](this.#seen);
    if (answer?.status !== 204) tell({ kind: "bad", text: "That did not work: is Redis unplugged?", data: { event: "lever-failed" } });
    else tell({ kind: isPulled ? "warning" : "info", text: isPulled ? pulled : back, data: { event: "lever", lever } });
  }

  #show() {
    const { pulled, doorwards, max_staleness_ms: most } = this.#seen;
    broken(this.#seen);
    for (const button of this.#root.querySelectorAll("[data-lever]")) {
      const isPulled = pulled[button.dataset.lever] ?? false;
      const text = LEVERS[button.dataset.lever][0][Number(isPulled)];
      if (button.textContent !== text) button.textContent = text;
      button.dataset.pulled = isPulled;
    }
    const list = this.#root.querySelector(".views");
    while (list.childElementCount < doorwards.length) list.append(document.getElementById("view").content.cloneNode(true));
    doorwards.forEach(({ name, answers, view_age_ms: age }, at) => {
      const item = list.children[at];
      const share = !answers ? 0 : age === null ? 1 : Math.min(age / most, 1);
      item.dataset.state = !answers ? "unavailable" : share >= 1 ? "refused" : share > 0.5 ? "unavailable" : "allowed";
      item.querySelector(".name").textContent = name;
      item.querySelector(".figure").textContent = !answers ? "frozen" : age === null ? "too old" : `${(age / 1000).toFixed(1)} s`;
      item.querySelector(".fill").style.inlineSize = `${share * 100}%`;
    });
  }
}
