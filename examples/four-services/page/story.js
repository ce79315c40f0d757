// The story that the page tells by itself: a token is stolen, its user signs out, and three doors are shut.

/** How long each step is shown, in milliseconds. */
const SHOWN = { "signed-in": 4000, copied: 3000, inside: 4500, "signed-out": 1500, shut: 5500 };

export class Story {
  #root;
  #acts;
  #turn = 0;

  /** `acts`: what happens at each step; a step that returns false ends the story. */
  constructor(root, acts) {
    this.#root = root;
    this.#acts = acts;
    this.#find(".play").addEventListener("click", () => this.play());
    this.#find(".skip").addEventListener("click", () => {
      this.stop();
      this.#find(".play").focus();
    });
  }

  get isRunning() {
    return this.#root.dataset.story === "running";
  }

  async play() {
    const turn = (this.#turn += 1);
    this.#show("running");
    for (const step of this.#root.querySelectorAll("[data-step]")) delete step.dataset.state;
    for (const [name, shown] of Object.entries(SHOWN)) {
      const step = this.#root.querySelector(`[data-step="${name}"]`);
      step.dataset.state = "now";
      step.setAttribute("aria-current", "step");
      this.#find(".said").textContent = step.textContent;
      const done = await this.#acts[name]();
      if (this.#turn !== turn) return;
      await new Promise((wake) => setTimeout(wake, shown));
      if (this.#turn !== turn) return;
      step.removeAttribute("aria-current");
      step.dataset.state = "done";
      if (done === false) break;
    }
    this.#show("told");
    this.#find(".said").textContent = "Your turn.";
  }

  /** The user takes over. */
  stop() {
    if (!this.isRunning) return;
    this.#turn += 1;
    for (const step of this.#root.querySelectorAll("[data-step]")) {
      delete step.dataset.state;
      step.removeAttribute("aria-current");
    }
    this.#show("told");
  }

  #show(state) {
    this.#root.dataset.story = state;
    this.#find(".skip").hidden = state !== "running";
    this.#find(".play").hidden = state === "running";
  }

  #find(selector) {
    return this.#root.querySelector(selector);
  }
}
