// The signed-in user: two tokens, in memory only, renewed before the first expires.

import { post } from "./accounts.js";

/** How long before its end the access token is renewed, in milliseconds. */
const AHEAD = 30_000;
/** The least time between two renewals: a refused token is renewed as well, and must not become a flood. */
const PAUSE = 1000;

export class Session {
  #refreshToken;
  #renewed = 0;
  /** Whether the tokens were renewed because the last ones were refused, and whether a service has accepted them. */
  isSecond = false;
  wasAccepted = false;
  #renewing = null;

  constructor(login, answer) {
    this.login = login;
    this.#take(answer);
  }

  /** Signs in; `null` and the answer when Accounts says no. */
  static async begin(login, password) {
    const answer = await post("/auth/login", { body: { login, password } });
    return { session: answer.status === 200 ? new Session(login, answer) : null, answer };
  }

  #take({ body }) {
    this.token = body.access_token;
    this.#refreshToken = body.refresh_token;
    this.endsAt = Date.now() + body.expires_in * 1000;
  }

  get isDue() {
    return Date.now() > this.endsAt - AHEAD;
  }

  /** A service let this token in. */
  accepted(token) {
    if (token === this.token) this.wasAccepted = true;
  }

  /** Gets new tokens, at most one at a time; `false` when the session has ended at Accounts. */
  renew(wasRefused = false) {
    if (!this.#renewing && Date.now() - this.#renewed < PAUSE) return Promise.resolve(true);
    this.#renewing ??= this.#renew(wasRefused).finally(() => {
      this.#renewing = null;
    });
    return this.#renewing;
  }

  async #renew(wasRefused) {
    this.#renewed = Date.now();
    const answer = await post("/auth/refresh", { body: { refresh_token: this.#refreshToken } });
    if (answer.status === 200) {
      this.#take(answer);
      [this.isSecond, this.wasAccepted] = [wasRefused, false];
    }
    return answer.status !== 400; // An outage ends nothing.
  }
}
