// Reads Doorward's identity payload, plain or signed. Node 18 or newer, no packages.

import { createPublicKey, verify } from 'node:crypto';

const CLOCK_SKEW_SECONDS = 30;
// Made-up key ids must not become a flood of fetches.
const BETWEEN_FETCHES_MS = 1000;

/**
 * Returns a function from a header to an identity, or to null for a header that is absent, forged,
 * expired or not what it is for. Without `jwksUrl` it reads base64url JSON: only where nobody but
 * Envoy can reach this service. With it, payloads signed by Doorward, whose keys are at `/jwks.json`.
 */
export function identityReader({ jwksUrl } = {}) {
  let keys = new Map();
  let fetched = -Infinity;

  async function keyOf(id) {
    if (!keys.has(id) && performance.now() - fetched > BETWEEN_FETCHES_MS) {
      fetched = performance.now();
      const response = await fetch(jwksUrl, { signal: AbortSignal.timeout(2000) });
      const found = (await response.json()).keys;
      keys = new Map(found.map((jwk) => [jwk.kid, { alg: jwk.alg, key: createPublicKey({ key: jwk, format: 'jwk' }) }]));
    }
    return keys.get(id);
  }

  async function verified(jws) {
    const [head, body, signature, ...more] = jws.split('.');
    const { alg, kid, typ } = json(head);
    const known = await keyOf(kid);
    // The key determines its use, never the payload. The type excludes access tokens.
    if (more.length || !known || alg !== known.alg || typ !== 'identity+jwt') return null;
    const digest = known.alg === 'EdDSA' ? null : 'sha256';
    const key = { key: known.key, dsaEncoding: 'ieee-p1363' };
    const good = verify(digest, Buffer.from(`${head}.${body}`), key, Buffer.from(signature, 'base64url'));
    const payload = json(body);
    return good && payload.exp + CLOCK_SKEW_SECONDS >= Date.now() / 1000 ? payload : null;
  }

  return async (header) => {
    try {
      const payload = header && (jwksUrl ? await verified(header) : json(header));
      return payload?.user_id ? new Identity(payload) : null;
    } catch {
      return null;
    }
  };
}

/** Who is calling, as Doorward says; what the token does not tell is undefined. */
export class Identity {
  constructor(payload) {
    this.userId = payload.user_id;
    this.email = payload.email;
    this.tokenId = payload.token_id;
    this.expiresAt = new Date(payload.expires_at * 1000);
    this.scopes = payload.scopes;
  }
}

/** Express middleware: `app.use(identity(identityReader({ jwksUrl })))`, then `request.identity`. */
export function identity(read) {
  return async (request, response, next) => {
    request.identity = await read(request.headers['x-identity']);
    if (request.identity) return next();
    response.statusCode = 401;
    response.end();
  };
}

function json(base64url) {
  return JSON.parse(Buffer.from(base64url, 'base64url').toString());
}
