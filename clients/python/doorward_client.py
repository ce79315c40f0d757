"""Revokes tokens at Doorward by Redis: the key and the log entry in one transaction."""

import hashlib
import re


class Doorward:
    """`redis` is a client of redis-py; `issuer` is the issuer's configured name; the times are in seconds, as configured."""

    def __init__(self, redis, issuer, *, max_lifetime=86_400, leeway=30, key_prefix="doorward:"):
        self._redis, self._issuer, self._prefix = redis, issuer, f"{key_prefix}{{r}}:"
        self._max_lifetime, self._leeway = max_lifetime, leeway

    def revoke_token(self, token_id, expires, reason=""):
        """One token, by its `jti`, until its `exp`."""
        return self._revoke("token", token_id, "*", expires, reason)

    def revoke_session(self, session_id, reason=""):
        """Every token of a session, by its `sid`."""
        return self._revoke("session", session_id, "*", self._now() + self._max_lifetime, reason)

    def revoke_user(self, user_id, reason=""):
        """Every token of a user that was issued up to now."""
        now = self._now()
        # Tokens of the second that is not over yet may be dated by its end.
        return self._revoke("user", user_id, str(int((now + 1) * 1000)), now + self._max_lifetime, reason)

    def _now(self):
        """By the clock of Redis: one that is behind would leave tokens of the last moments valid."""
        seconds, microseconds = self._redis.time()
        return seconds + microseconds / 1e6

    def _revoke(self, kind, target, at, expires, reason):
        expires = int(expires) + 1 + self._leeway
        if len(target.encode()) > 128 or not re.fullmatch(r"[A-Za-z0-9._~@|+=-]+", target):
            target = "sha256:" + hashlib.sha256(target.encode()).hexdigest()
        entry = {"issuer": self._issuer, "kind": kind, "id": target, "at": at, "expires": expires * 1000,
                 "origin": "revoked", "reason": reason}
        if kind == "user":
            del entry["at"]  # Each instance adds to the entry's own time what it knows of the issuer's clock.
        with self._redis.pipeline(transaction=True) as both:
            both.set(f"{self._prefix}{self._issuer}:{kind}:{target}", f"{at} revoked", exat=expires)
            both.xadd(f"{self._prefix}log", entry)
            return both.execute()[1]
