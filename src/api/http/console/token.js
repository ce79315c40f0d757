// A pasted token, parsed in this page: only its identifiers are ever sent.

/** Where a JSON object may begin in Base64url (`{"`, `{ `, `{` and a line break): with some of what follows. */
const BEGINNING = /(?=(e[yw][\w-]{10,30}))/g;

/** The places in a text at which a JWT's header or claims begin. Line breaks, quotes and escapes do not hide one. */
function beginnings(text) {
  const compact = text.replace(/[\s"'`\\]+/g, '');
  const isJson = (part) => /^\{\s*"[\x20-\x7e]{4,}/.test(atob(part.slice(0, part.length & ~3).replaceAll('-', '+').replaceAll('_', '/')));
  return { compact, places: [...compact.matchAll(BEGINNING)].filter(([, part]) => isJson(part)).map(({ index }) => index) };
}

/** Whether a token, or a part of one with its beginning, is anywhere in a text: such a text is not sent. */
export const holdsToken = (text) => beginnings(text).places.length > 0;

/** What the tokens in a text say of themselves. Nothing is verified here: a revocation of what they name is safe. */
export function read(text) {
  const { compact, places } = beginnings(text);
  return places.flatMap((place) => {
    const [, ...parts] = /^([\w-]+)\.([\w-]+)/.exec(compact.slice(place)) ?? [];
    try {
      const [header, claims] = parts.map((part) => JSON.parse(fromBase64Url(part)));
      return typeof header.alg === 'string' && typeof claims === 'object' && claims !== null ? [{ claims, header, signed: parts.join('.') }] : [];
    } catch {
      return []; // Another beginning may be one of a token.
    }
  });
}

function fromBase64Url(text) {
  const bytes = Uint8Array.from(atob(text.replaceAll('-', '+').replaceAll('_', '/')), (char) => char.charCodeAt(0));
  return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
}

/** The configured issuer of a token, by `iss`; `{tenant}` in one stands for any text. */
export function issuerOf(claims, issuers) {
  const fits = (template) => {
    const [before, after] = template.split('{tenant}');
    if (after === undefined) return template === claims.iss;
    return typeof claims.iss === 'string' && claims.iss.startsWith(before) && claims.iss.endsWith(after);
  };
  return issuers.find((issuer) => issuer.issuer.some(fits)) ?? null;
}

/** When a token expires, as a date; null if it does not say, or not with an instant. */
export function expiry({ exp }) {
  return typeof exp === 'number' && exp >= 0 && exp <= LAST_SECOND ? new Date(exp * 1000) : null;
}

/** The last second of the year 9999. */
const LAST_SECOND = 253_402_300_799;

/** What of the token can be revoked: `{kind, id}`, the token itself first. An id with control characters is refused anyway. */
export function targets({ claims, signed, header }, issuer) {
  const named = (paths) => paths.map((path) => find(claims, path)).find((value) => value !== undefined);
  const tenant = issuer.issuer.some((template) => template.includes('{tenant}')) && claims.tid ? `${claims.tid}|` : '';
  const user = named(issuer.claims.user_id);
  const found = [
    { kind: 'token', id: text(claims.jti) ?? `sha256:${sha256(signed)}` },
    { kind: 'session', id: text(named(issuer.claims.session_id)) },
    { kind: 'user', id: text(user) && tenant + text(user) },
    { kind: 'client', id: text(named(issuer.claims.client_id)) },
    { kind: 'actor', id: text(claims.act?.sub) },
    { kind: 'key', id: text(header.kid) },
  ];
  return found.filter(({ id }) => id && !/\p{Cc}/u.test(id));
}

const text = (value) => (typeof value === 'string' && value !== '' ? value : Number.isSafeInteger(value) ? `${value}` : undefined);

/** A claim by its name, or by a JSON pointer (RFC 6901). */
function find(claims, path) {
  if (!path.startsWith('/')) return claims[path];
  const steps = path.slice(1).split('/').map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'));
  return steps.reduce((value, step) => value?.[step], claims);
}

// FIPS 180-4. The browser's own is missing on plain HTTP beyond this machine.

const primes = (() => {
  const found = [];
  for (let n = 2; found.length < 64; n += 1) if (found.every((prime) => n % prime)) found.push(n);
  return found;
})();
const fraction = (root) => ((root - Math.floor(root)) * 2 ** 32) | 0;
const K = primes.map((prime) => fraction(Math.cbrt(prime)));
const START = primes.slice(0, 8).map((prime) => fraction(Math.sqrt(prime)));

/** The SHA-256 of a text, in hex. */
export function sha256(message) {
  const bytes = new TextEncoder().encode(message);
  const size = Math.ceil((bytes.length + 9) / 64) * 64;
  const padded = new DataView(new ArrayBuffer(size));
  bytes.forEach((byte, at) => padded.setUint8(at, byte));
  padded.setUint8(bytes.length, 0x80);
  padded.setUint32(size - 8, Math.floor(bytes.length / 2 ** 29));
  padded.setUint32(size - 4, bytes.length << 3);
  const right = (word, by) => (word >>> by) | (word << (32 - by));
  const state = [...START];
  const w = new Int32Array(64);
  for (let block = 0; block < size; block += 64) {
    for (let i = 0; i < 16; i += 1) w[i] = padded.getInt32(block + i * 4);
    for (let i = 16; i < 64; i += 1) {
      const [a, b] = [w[i - 15], w[i - 2]];
      w[i] = w[i - 16] + (right(a, 7) ^ right(a, 18) ^ (a >>> 3)) + w[i - 7] + (right(b, 17) ^ right(b, 19) ^ (b >>> 10));
    }
    let [a, b, c, d, e, f, g, h] = state;
    for (let i = 0; i < 64; i += 1) {
      const one = (h + (right(e, 6) ^ right(e, 11) ^ right(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i]) | 0;
      const two = ((right(a, 2) ^ right(a, 13) ^ right(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((word, i) => (state[i] = (state[i] + word) | 0));
  }
  return state.map((word) => (word >>> 0).toString(16).padStart(8, '0')).join('');
}
