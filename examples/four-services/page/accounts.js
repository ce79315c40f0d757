// The requests that the page sends: to Accounts, and to A, B and C through Envoy.

/** How long an answer may take before it counts as none, in milliseconds. */
const PATIENCE = 5000;

/**
 * Posts to Accounts. Never throws: an answer that did not come has the status 0.
 * @returns {Promise<{status: number, body: object, ms: number, at: number}>} `at` and `ms`: when the answer was
 *   there (performance.now()), and how long it took.
 */
export async function post(path, { token, body } = {}) {
  const headers = { ...bearer(token), ...(body && { "content-type": "application/json" }) };
  return send(path, { method: "POST", headers, body: body && JSON.stringify(body) });
}

/** Asks a service with a token, or without one. */
export async function ask(service, token) {
  return send(`/${service.toLowerCase()}/orders`, { headers: bearer(token) });
}

function bearer(token) {
  return token ? { authorization: `Bearer ${token}` } : {};
}

async function send(path, options) {
  const began = performance.now();
  try {
    const signal = AbortSignal.timeout(PATIENCE);
    const response = await fetch(path, { cache: "no-store", credentials: "omit", redirect: "error", signal, ...options });
    const at = performance.now();
    return { status: response.status, body: await json(response), ms: at - began, at, doorward: timing(response) };
  } catch {
    const at = performance.now();
    return { status: 0, body: {}, ms: at - began, at };
  }
}

/** Doorward's own time for a sign-out, as Accounts measured it (Server-Timing); null without it. */
function timing(response) {
  const [, ms, instances] = /^doorward;dur=([\d.]+);desc=(\d+)$/.exec(response.headers.get("server-timing") ?? "") ?? [];
  return ms ? { ms: Number(ms), instances: Number(instances) } : null;
}

/** A value that is not a JSON object counts as an empty one. */
async function json(response) {
  const body = await response.json().catch(() => null);
  return body !== null && typeof body === "object" ? body : {};
}
