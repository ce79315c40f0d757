// The HTTP API of this listener, with an admin key that is kept in this module's memory and nowhere else.

let key = null;

/** Called when the key is refused. */
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

async function ask(path, options = {}) {
  const headers = { ...options.headers, authorization: `Bearer ${key}` };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: 'no-store', credentials: 'omit', redirect: 'error' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new ApiError(0, { title: 'No answer', detail: 'The service does not answer.' });
  }
  if (response.ok) return response;
  const error = new ApiError(response.status, await response.json().catch(() => null));
  if (response.status === 401 && key !== null) refused();
  throw error;
}

export async function get(path, options) {
  return (await ask(path, options)).json();
}

/** Server-sent events of a response, one `{name, data}` after another. */
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
        if (name) yield { name, data: JSON.parse(data) };
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** What changes, until `signal` aborts or the service ends it. */
export async function* watch(signal) {
  yield* events(await ask('/v1/events', { signal }));
}

/** Revokes, and yields `progress` until `receipt` or `problem`. */
export async function* revoke(body, timeoutMs) {
  const response = await ask(`/v1/revocations?wait=all&timeout=${Math.floor(timeoutMs)}ms`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
    body: JSON.stringify(body),
  });
  yield* events(response);
}
