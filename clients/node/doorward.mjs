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
  revokeSession(sessionId, reason = "") {
    return this.#revoke("session", sessionId, "*", Date.now() / 1000 + this.maxLifetime, reason);
  }

  /** Every token of a user that was issued up to now. */
  revokeUser(userId, reason = "") {
    const now = Date.now();
    return this.#revoke("user", userId, `${now}`, now / 1000 + this.maxLifetime, reason);
  }

  async #revoke(kind, target, at, until, reason) {
    const { redis, issuer, prefix } = this;
    const expires = Math.floor(until) + 1 + this.leeway;
    const plain = Buffer.byteLength(target) <= 128 && /^[A-Za-z0-9._~@|+=-]+$/.test(target);
    const id = plain ? target : `sha256:${createHash("sha256").update(target).digest("hex")}`;
    const both = redis
      .multi()
      .set(`${prefix}${issuer}:${kind}:${id}`, `${at} revoked`, { expiration: { type: "EXAT", value: expires } })
      .xAdd(`${prefix}log`, "*", { issuer, kind, id, at, expires: `${expires}000`, origin: "revoked", reason });
    return (await both.exec())[1];
  }
}
