// A small transmitter of Shared Signals (SSF 1.0), with signatures by npm's jose:
//
//     node transmitter.mjs FOLDER        FOLDER holds node_modules/jose
//
// Prints its port. Then each line of standard input is a command in JSON, answered by a line: {"event": CLAIMS}
// delivers a token by the stream's delivery method, {"poison": TEXT} adds a text to those to be polled, {"paused":
// true} stops answering polls, {"status": "paused"} sets the status of the stream, {"deaf": true} repeats acknowledged
// events, {"teasing": true} answers polls with no events and `moreAvailable`, {"state": true} returns its state.
import { createInterface } from 'node:readline';
import { createServer } from 'node:http';
import { randomUUID } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const jose = await import(pathToFileURL(`${process.argv[2]}/node_modules/jose/dist/webapi/index.js`).href);
const { publicKey, privateKey } = await jose.generateKeyPair('RS256');
const jwk = { ...(await jose.exportJWK(publicKey)), kid: 'signals-1', alg: 'RS256', use: 'sig' };
const MANAGEMENT = 'Bearer management-token-0123456789';
const POLLING = 'Bearer polling-token-0123456789';
const VERIFICATION = 'https://schemas.openid.net/secevent/ssf/event-type/verification';

const known = { stream: null, created: 0, verifications: 0, acknowledged: [], refused: {}, pushes: [], polls: 0, largest: 0 };
const queue = new Map();
let paused = false;
let deaf = false;
let teasing = false;
let wake = () => {};

const sign = (claims) =>
  new jose.SignJWT({ jti: randomUUID(), iss: issuer(), aud: 'doorward', iat: Math.floor(Date.now() / 1000), ...claims })
    .setProtectedHeader({ alg: 'RS256', kid: 'signals-1', typ: 'secevent+jwt' })
    .sign(privateKey);
const issuer = () => `http://127.0.0.1:${server.address().port}/tenant`;
const read = async (request) => {
  let text = '';
  for await (const chunk of request) text += chunk;
  return text === '' ? undefined : JSON.parse(text);
};

async function deliver(claims) {
  const set = await sign(claims);
  const { jti } = jose.decodeJwt(set);
  const { delivery } = known.stream ?? { delivery: { method: 'urn:ietf:rfc:8936' } };
  if (delivery.method === 'urn:ietf:rfc:8936') {
    queue.set(jti, set);
    wake();
    return jti;
  }
  for (let attempt = 0; attempt < 50; attempt += 1) {
    const headers = { 'content-type': 'application/secevent+jwt', authorization: delivery.authorization_header ?? '' };
    const response = await fetch(delivery.endpoint_url, { method: 'POST', headers, body: set });
    known.pushes.push(response.status);
    if (response.status < 429) return jti;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return jti;
}

async function poll(body) {
  known.polls += 1;
  if (teasing) return { sets: {}, moreAvailable: true };
  if (deaf && queue.size > 0) return { sets: Object.fromEntries(queue), moreAvailable: true };
  for (const jti of body.ack ?? []) {
    queue.delete(jti);
    known.acknowledged.push(jti);
  }
  for (const [jti, error] of Object.entries(body.setErrs ?? {})) {
    queue.delete(jti);
    known.refused[jti] = error.err;
  }
  if (queue.size === 0 && !body.returnImmediately) {
    await new Promise((resolve) => {
      wake = resolve;
      setTimeout(resolve, 1000);
    });
  }
  const sets = Object.fromEntries([...queue].slice(0, body.maxEvents));
  known.largest = Math.max(known.largest, Object.keys(sets).length);
  return { sets, moreAvailable: queue.size > Object.keys(sets).length };
}

const server = createServer(async (request, response) => {
  const url = new URL(request.url, 'http://x');
  const answer = (status, body) => {
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(body === undefined ? '' : JSON.stringify(body));
  };
  const at = (path) => `http://127.0.0.1:${server.address().port}${path}`;
  const body = await read(request);
  if (url.pathname === '/.well-known/ssf-configuration/tenant') {
    return answer(200, {
      spec_version: '1_0', issuer: issuer(), jwks_uri: at('/jwks'), configuration_endpoint: at('/stream'),
      status_endpoint: at('/status'), verification_endpoint: at('/verify'),
      delivery_methods_supported: ['urn:ietf:rfc:8935', 'urn:ietf:rfc:8936'],
    });
  }
  if (url.pathname === '/jwks') return answer(200, { keys: [jwk] });
  if (url.pathname === '/poll') {
    if (request.headers.authorization !== POLLING) return answer(401);
    if (paused) return answer(503);
    return answer(200, await poll(body));
  }
  if (request.headers.authorization !== MANAGEMENT) return answer(401);
  if (url.pathname === '/stream' && request.method === 'GET') return answer(200, known.stream ? [known.stream] : []);
  if (url.pathname === '/stream' && request.method === 'POST') {
    known.created += 1;
    const delivery = { ...body.delivery };
    if (delivery.method === 'urn:ietf:rfc:8936') delivery.endpoint_url = at('/poll');
    known.stream = { stream_id: randomUUID(), iss: issuer(), aud: 'doorward', ...body, delivery };
    return answer(201, known.stream);
  }
  if (url.pathname === '/stream' && request.method === 'PATCH') {
    const { endpoint_url } = known.stream.delivery;
    known.stream = { ...known.stream, ...body, delivery: { endpoint_url, ...body.delivery } };
    return answer(200, known.stream);
  }
  const id = body?.stream_id ?? url.searchParams.get('stream_id');
  if (id !== known.stream?.stream_id) return answer(404);
  if (url.pathname === '/status') return answer(200, { stream_id: id, status: known.status ?? 'enabled' });
  if (url.pathname === '/verify') {
    answer(204);
    known.verifications += 1;
    await deliver({ sub_id: { format: 'opaque', id }, events: { [VERIFICATION]: { state: body.state } } });
    return undefined;
  }
  return answer(404);
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if (command.event) {
    console.log(JSON.stringify(await deliver(command.event)));
  } else if (command.poison !== undefined) {
    queue.set(`poison-${queue.size}`, command.poison);
    wake();
    console.log('"queued"');
  } else if (command.status) {
    known.status = command.status;
    console.log('"so be it"');
  } else if (command.paused !== undefined) {
    paused = command.paused;
    console.log('"so be it"');
  } else {
    console.log(JSON.stringify({ ...known, queued: queue.size }));
  }
}
process.exit(0);
