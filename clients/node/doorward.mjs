// Revokes tokens at Doorward by Redis: the key and the log entry in one transaction.

import { createHash } from "node:crypto";

/** `redis` is a connected client of the package `redis`; `issuer` is the issuer's configured name; times are in seconds. */
export class Doorward {
  constructor(redis, issuer, { maxLifetime = 86_400, leeway = 30, keyPrefix = "doorward:" } = {}) {
    Object.assign(this, { redis, issuer, maxLifetime, leeway, prefix: `${keyPrefix}{r}:` });
  }

  /** One token, by its `jti`, until its `exp`. */
  revokeToken(tokenId, expires, reason = "") {
    return this.#revoke("token", tokenId, "*", expires, reason);
  }

  /** Every token of a session, by its `sid`. */
  async revokeSession(sessionId, reason = "") {
    return this.#revoke("session", sessionId, "*", (await this.#now()) + this.maxLifetime, reason);
  }

  /** Every token of a user that was issued up to now. */
  async revokeUser(userId, reason = "") {
    const now = await this.#now();
    // Tokens of the second that is not over yet may be dated by its end.
    return this.#revoke("user", userId, `${Math.floor((now + 1) * 1000)}`, now + this.maxLifetime, reason);
  }

  /** By the clock of Redis: one that is behind would leave tokens of the last moments valid. */
  async #now() {
    const [seconds, microseconds] = await this.redis.sendCommand(["TIME"]);
    return Number(seconds) + Number(microseconds) / 1e6;
  }

  async #revoke(kind, target, at, until, reason) {
    const { redis, issuer, prefix } = this;
    const expires = Math.floor(until) + 1 + this.leeway;
    const plain = Buffer.byteLength(target) <= 128 && /^[A-Za-z0-9._~@|+=-]+$/.test(target);
    const id = plain ? target : `sha256:${createHash("sha256").update(target).digest("hex")}`;
    const both = redis
      .multi()
      .set(`${prefix}${issuer}:${kind}:${id}`, `${at} revoked`, { expiration: { type: "EXAT", value: expires } })
      // Without `at`, each instance adds to the entry's own time what it knows of the issuer's clock.
      .xAdd(`${prefix}log`, "*", { issuer, kind, id, ...(kind !== "user" && { at }), expires: `${expires}000`, origin: "revoked", reason });
    return (await both.exec())[1];
  }
}
