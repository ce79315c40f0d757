// The HTTP API of this listener, with an admin key that is kept in this module's memory and nowhere else.
import { holdsToken } from './token.js';

/** The longest that the API takes for an answer, in milliseconds; it gives up earlier itself. */
const PATIENCE = 15_000;

let key = null;

/** Called when the key is refused (`unknown`), or may do less than it could (`withdrawn`). */
let refused = () => {};

export class ApiError extends Error {
  constructor(status, problem) {
    super(problem?.detail ?? problem?.title ?? `the service answered ${status}`);
    this.status = status;
    this.title = problem?.title ?? `Status ${status}`;
    this.pointer = problem?.pointer ?? null;
  }
}

export function use(next, onRefused) {
  key = next;
  refused = onRefused;
}

export function forget() {
  key = null;
  refused = () => {};
}

/** A response's head within `PATIENCE`, and what `take` makes of it within `whole` more; without `whole`, at any time. */
async function ask(path, take, { signal, whole, ...options } = {}) {
  // The last door: whatever field it came from, a token is not sent.
  if ([decodeURIComponent(path), options.body ?? ''].some(holdsToken)) throw new ApiError(0, { title: 'Not sent', detail: 'That is a token, and it was not sent.' });
  const late = new AbortController();
  let timer = setTimeout(() => late.abort(), PATIENCE);
  const headers = { ...options.headers, authorization: `Bearer ${key}` };
  try {
    const ends = AbortSignal.any([late.signal, ...(signal ? [signal] : [])]);
    const response = await fetch(path, { ...options, headers, signal: ends, cache: 'no-store', credentials: 'omit', redirect: 'error' });
    if (response.ok) {
      clearTimeout(timer);
      if (whole !== undefined) timer = setTimeout(() => late.abort(), whole);
      return await take(response); // After its end an abort changes nothing.
    }
    const error = new ApiError(response.status, await response.json().catch(() => null));
    if (response.status === 401 && key !== null) refused('unknown');
    if (response.status === 403 && key !== null) refused('withdrawn');
    throw error;
  } catch (error) {
    if (error instanceof ApiError || signal?.aborted) throw error;
    throw noAnswer(late.signal.aborted);
  }
}

function noAnswer(isLate) {
  const detail = isLate
    ? `The service did not answer within ${PATIENCE / 1000} s. It may hang, or other tabs of this browser use all of its connections to the service.`
    : 'The service does not answer.';
  return new ApiError(0, { title: 'No answer', detail });
}

export async function get(path, options) {
  return ask(path, (response) => response.json(), { ...options, whole: PATIENCE });
}

/** Server-sent events of a response, one `{name, data}` after another; a comment has no name. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const parts = text.split('\n\n');
      text = parts.pop();
      for (const part of parts) {
        const [name, data] = ['event: ', 'data: '].map((start) => part.split('\n').find((line) => line.startsWith(start))?.slice(start.length));
        yield name ? { name, data: JSON.parse(data) } : { name: null };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** What changes, until `signal` aborts or the service ends it; at least a comment every two seconds. */
export async function* watch(signal) {
  const begun = await ask('/v1/events', events, { signal });
  yield { name: null };
  yield* begun;
}

const post = (body, more) => ({ method: 'POST', headers: { 'content-type': 'application/json', ...more }, body: JSON.stringify(body) });

/** Revokes without waiting for the instances: the receipt. */
export async function store(body) {
  return ask('/v1/revocations', (response) => response.json(), { ...post(body), whole: PATIENCE });
}

/** Revokes, and yields `progress` until `receipt` or `problem`. */
export async function* revoke(body, timeoutMs) {
  const path = `/v1/revocations?wait=all&timeout=${Math.floor(timeoutMs)}ms`;
  try {
    yield* await ask(path, events, { ...post(body, { accept: 'text/event-stream' }), whole: timeoutMs + PATIENCE });
  } catch (error) {
    throw error instanceof ApiError ? error : noAnswer(false);
  }
}
