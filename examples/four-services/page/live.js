// The live stream of service C: open while the user is signed in, and over the moment they sign out.

/** One stream at a time. All of what comes over it is counted and not shown. */
export class Live {
  #root;
  #ended;
  #stream = null;
  #endedAt = 0;

  /** @param ended is told when a stream was ended from outside, with performance.now() of that moment. */
  constructor(root, ended) {
    this.#root = root;
    this.#ended = ended;
  }

  /** Opens the stream with this token, in place of another. */
  open(token) {
    this.#show("opening", "…", "");
    this.openAgain(token);
  }

  /** Opens it after it has ended; until it is open, the page says that it is not. */
  openAgain(token) {
    this.close();
    const stream = { controller: new AbortController(), seen: 0 };
    this.#stream = stream;
    this.#follow(stream, token);
  }

  /** Whether it has been over for this time, in milliseconds. */
  hasEndedFor(ms) {
    return this.#stream === null && performance.now() - this.#endedAt >= ms;
  }

  /** Closes it from here: there is nothing to measure. */
  close() {
    this.#stream?.controller.abort();
    this.#stream = null;
  }

  async #follow(stream, token) {
    const { signal } = stream.controller;
    const options = { headers: { authorization: `Bearer ${token}` }, cache: "no-store", credentials: "omit", signal };
    let was = "refused";
    try {
      const response = await fetch("/c/live", options);
      if (response.ok) {
        was = "open";
        const reader = response.body.getReader();
        while (!(await reader.read()).done) {
          if (this.#stream !== stream) return;
          stream.seen += 1;
          this.#show("open", "✓ Open", `${stream.seen} events`);
        }
      }
    } catch {
      // Ended by Envoy: over HTTP/1.1 the answer breaks off.
    }
    const at = performance.now();
    if (this.#stream !== stream) return; // Closed from here, or replaced.
    this.#stream = null;
    this.#endedAt = at;
    this.#show("ended", "✕ Ended", was === "open" ? `after ${stream.seen} events` : "not opened");
    if (was === "open") this.#ended(at);
  }

  /** Says how long after the sign-out it ended. */
  measured(ms) {
    this.#show("ended", "✕ Ended", `${ms} ms after the sign-out`);
    this.#root.dataset.ms = ms;
  }

  #show(state, word, detail) {
    this.#root.dataset.state = state;
    this.#text(".verdict", word);
    this.#text(".detail", detail);
  }

  #text(selector, text) {
    const element = this.#root.querySelector(selector);
    if (element.textContent !== text) element.textContent = text;
  }
}
