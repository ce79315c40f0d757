// The story that the page tells by itself: a token is stolen, its user signs out, and three doors are shut.

/** How often the stage is looked at while the story waits; how long each step is shown; in milliseconds. */
const WAITS = 1000;
const SHOWN = { "signed-in": 4000, copied: 3000, inside: 4500, "signed-out": 1500, shut: 5500 };

export class Story {
  #root;
  #trouble;
  #acts;
  #turn = 0;

  /**
   * `trouble`: what keeps the story from being true now, or null; it waits meanwhile. `acts`: what happens at each
   * step; a step that returns what is not so ends the story.
   */
  constructor(root, trouble, acts) {
    this.#root = root;
    this.#trouble = trouble;
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
      await this.#untilWhole(turn);
      if (this.#turn !== turn) return;
      const step = this.#root.querySelector(`[data-step="${name}"]`);
      step.dataset.state = "now";
      step.setAttribute("aria-current", "step");
      this.#find(".said").textContent = step.textContent;
      const fault = await this.#acts[name]();
      if (this.#turn !== turn) return;
      if (fault !== null) return this.#halt(step, fault, turn);
      await new Promise((wake) => setTimeout(wake, shown));
      if (this.#turn !== turn) return;
      step.removeAttribute("aria-current");
      step.dataset.state = "done";
    }
    this.#show("told");
    this.#find(".said").textContent = "Your turn.";
  }

  /** Waits while something is broken, and says what. */
  async #untilWhole(turn) {
    for (let what = await this.#trouble(); what && this.#turn === turn; what = await this.#trouble()) {
      this.#say(`The story waits: ${what}.`);
      await new Promise((wake) => setTimeout(wake, WAITS));
    }
    if (this.#turn === turn) this.#say("");
  }

  /** It is not as the step says: the story ends here, and says why. */
  async #halt(step, fault, turn) {
    const cause = await this.#trouble();
    if (this.#turn !== turn) return;
    step.removeAttribute("aria-current");
    step.dataset.state = "failed";
    this.#show("told");
    this.#say(`The story stops here: ${fault}${cause ? `; ${cause}` : ""}.`);
  }

  #say(text) {
    const halt = this.#find(".halt");
    if (halt.textContent !== text) halt.textContent = text;
  }

  /** The user takes over. */
  stop() {
    if (!this.isRunning) return;
    this.#turn += 1;
    this.#say("");
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
    this.#find(".play").textContent = "Tell the story again";
    if (state === "running") this.#say("");
  }

  #find(selector) {
    return this.#root.querySelector(selector);
  }
}
