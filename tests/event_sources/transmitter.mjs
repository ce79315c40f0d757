// A small transmitter of Shared Signals (SSF 1.0), with signatures by npm's jose, and its authorization server. It acts as
// the receivers' plans of the OpenID Foundation's conformance suite do, and refuses what they refuse:
//
//     node transmitter.mjs FOLDER        FOLDER holds node_modules/jose
//
// Prints its port. Then each line of standard input is a command in JSON, answered by a line:
// {"event": CLAIMS, "tamper": "signature" | "key"} delivers a token as the stream says; {"poison": TEXT} adds a text to
// those to be polled; {"set": {NAME: VALUE}} sets a switch (see `switches`); {"status": "paused"} sets the status of the
// stream, without a word; {"state": true} returns its state.
import { createInterface } from 'node:readline';
import { createServer } from 'node:http';
import { randomUUID } from 'node:crypto';
import { pathToFileURL } from 'node:url';

const jose = await import(pathToFileURL(`${process.argv[2]}/node_modules/jose/dist/webapi/index.js`).href);
const { publicKey, privateKey } = await jose.generateKeyPair('RS256');
const stranger = await jose.generateKeyPair('RS256');
const jwk = { ...(await jose.exportJWK(publicKey)), kid: 'signals-1', alg: 'RS256', use: 'sig' };
const MANAGEMENT = 'Bearer management-token-0123456789';
const POLLING = 'Bearer polling-token-0123456789';
const VERIFICATION = 'https://schemas.openid.net/secevent/ssf/event-type/verification';
const CLIENT = { id: 'door:ward', secret: 'p%st & secret-0123456789' };

const known = {
  stream: null, created: 0, verifications: 0, acknowledged: [], refused: {}, pushes: [], polls: 0, largest: 0,
  calls: [], grants: [], lifetimes: [], expired: 0, unauthorized: 0, deleted: [],
};
const switches = {
  paused: false, // polls are answered 503
  deaf: false, // acknowledged events are repeated
  teasing: false, // polls are answered with no events and `moreAvailable`
  mute: false, // verification events are not sent
  mulish: false, // receivers may not change the status
  foreign: false, // created streams are of another issuer
  audience: 'doorward', // of created streams
  others: [], // streams that are listed before the receiver's
  vague: false, // created streams are returned with a number as their id, and not listed
  missing: null, // this method and path is answered 404
  forgetful: false, // a stream is gone once it was created
  wrong: null, // the next verification has another 'state' or 'subject'
  lifetime: 3600, // of tokens, in seconds
  withdrawn: false, // all tokens so far are refused from now on; becomes false
};
const queue = new Map();
const issued = new Map();
let wake = () => {};

const sign = (claims, tamper) =>
  new jose.SignJWT({ jti: randomUUID(), iss: issuer(), aud: 'doorward', iat: Math.floor(Date.now() / 1000), ...claims })
    .setProtectedHeader({ alg: 'RS256', kid: tamper === 'key' ? 'signals-2' : 'signals-1', typ: 'secevent+jwt' })
    .sign(tamper ? stranger.privateKey : privateKey);
const issuer = () => `http://127.0.0.1:${server.address().port}/tenant`;
const read = async (request) => {
  let text = '';
  for await (const chunk of request) text += chunk;
  return text;
};

async function deliver(claims, tamper) {
  const set = await sign(claims, tamper);
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
    if (response.status === 202) known.acknowledged.push(jti);
    else if (response.status < 429) known.refused[jti] = (await response.json()).err;
    if (response.status < 429) return jti;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  return jti;
}

async function poll(body) {
  known.polls += 1;
  if (switches.teasing) return { sets: {}, moreAvailable: true };
  if (switches.deaf && queue.size > 0) return { sets: Object.fromEntries(queue), moreAvailable: true };
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

/** The client credentials grant (RFC 6749 section 4.4). */
function grant(request, form) {
  const encoded = (text) => new URLSearchParams({ x: text }).toString().slice(2);
  const basic = `Basic ${Buffer.from(`${encoded(CLIENT.id)}:${encoded(CLIENT.secret)}`).toString('base64')}`;
  const inHeader = request.headers.authorization === basic;
  const inBody = form.get('client_id') === CLIENT.id && form.get('client_secret') === CLIENT.secret;
  if (inHeader === inBody) return [401, { error: 'invalid_client' }];
  if (form.get('grant_type') !== 'client_credentials') return [400, { error: 'unsupported_grant_type' }];
  const token = `granted-${randomUUID()}`;
  issued.set(`Bearer ${token}`, Date.now() + switches.lifetime * 1000);
  known.lifetimes.push(switches.lifetime);
  known.grants.push({ method: inHeader ? 'basic' : 'post', scope: form.get('scope'), audience: form.get('audience') });
  return [200, { access_token: token, token_type: 'Bearer', expires_in: switches.lifetime }];
}

function isAuthorized(request, fixed) {
  const sent = request.headers.authorization;
  if (sent === fixed) return true;
  const until = issued.get(sent) ?? 0;
  if (until > Date.now()) return true;
  if (until) known.expired += 1;
  known.unauthorized += 1;
  return false;
}

/** The members of a stream that the transmitter supplies (SSF 1.0 section 8.1.1). */
const OURS = ['iss', 'aud', 'events_supported', 'events_delivered', 'min_verification_interval', 'inactivity_timeout'];
const supplies = (body) => OURS.some((name) => name in body);

const server = createServer(async (request, response) => {
  const url = new URL(request.url, 'http://x');
  const answer = (status, body) => {
    response.writeHead(status, {
      'content-type': 'application/json',
      ...(status === 401 ? { 'www-authenticate': 'Bearer error="invalid_token"' } : {}),
    });
    response.end(body === undefined ? '' : JSON.stringify(body));
  };
  const at = (path) => `http://127.0.0.1:${server.address().port}${path}`;
  const text = await read(request);
  if (url.pathname === '/token' && request.method === 'POST') return answer(...grant(request, new URLSearchParams(text)));
  const body = text === '' ? undefined : JSON.parse(text);
  if (url.pathname === '/.well-known/ssf-configuration/tenant') {
    return answer(200, {
      spec_version: '1_0', issuer: issuer(), jwks_uri: at('/jwks'), configuration_endpoint: at('/stream'),
      status_endpoint: at('/status'), verification_endpoint: at('/verify'),
      delivery_methods_supported: ['urn:ietf:rfc:8935', 'urn:ietf:rfc:8936'],
      authorization_schemes: [{ spec_urn: 'urn:ietf:rfc:6749' }],
    });
  }
  if (url.pathname === '/.well-known/oauth-authorization-server/tenant') {
    return answer(200, { issuer: issuer(), token_endpoint: at('/token'), response_types_supported: [] });
  }
  if (url.pathname === '/jwks') return answer(200, { keys: [jwk] });
  if (switches.withdrawn) {
    issued.clear();
    switches.withdrawn = false;
  }
  if (url.pathname === '/poll') {
    if (!isAuthorized(request, POLLING)) return answer(401);
    if (switches.paused) return answer(503);
    return answer(200, await poll(body));
  }
  if (!isAuthorized(request, MANAGEMENT)) return answer(401);
  const id = body?.stream_id ?? url.searchParams.get('stream_id');
  known.calls.push(`${request.method} ${url.pathname}${url.searchParams.has('stream_id') ? '?stream_id' : ''}`);
  if (switches.missing === `${request.method} ${url.pathname}`) return answer(404);
  if (url.pathname === '/stream' && request.method === 'GET' && id === null) {
    return answer(200, [...switches.others, ...(known.stream ? [known.stream] : [])]);
  }
  if (url.pathname === '/stream' && request.method === 'POST') {
    if (supplies(body) || 'stream_id' in body) return answer(400, { error: 'not yours to set' });
    if (known.stream) return answer(409, { error: 'one stream for each receiver' });
    const delivery = { ...body.delivery };
    if (delivery.method === 'urn:ietf:rfc:8936') {
      if (delivery.endpoint_url) return answer(400, { error: 'the endpoint of polls is not yours to set' });
      delivery.endpoint_url = at('/poll');
    }
    known.created += 1;
    if (switches.vague) return answer(201, { stream_id: known.created, ...body });
    const iss = switches.foreign ? `${issuer()}/other` : issuer();
    const stream = { stream_id: randomUUID(), aud: switches.audience, ...body, iss, delivery };
    known.stream = switches.forgetful ? null : stream;
    return answer(201, stream);
  }
  if (id !== known.stream?.stream_id) return answer(404);
  if (url.pathname === '/stream' && request.method === 'GET') return answer(200, known.stream);
  if (url.pathname === '/stream' && request.method === 'DELETE') {
    known.deleted.push(id);
    known.stream = null;
    queue.clear();
    return answer(204);
  }
  if (url.pathname === '/stream' && request.method === 'PATCH') {
    if (supplies(body)) return answer(400, { error: 'not yours to set' });
    const { endpoint_url } = known.stream.delivery;
    known.stream = { ...known.stream, ...body, delivery: { endpoint_url, ...body.delivery } };
    return answer(200, known.stream);
  }
  if (url.pathname === '/status' && request.method === 'POST') {
    if (switches.mulish) return answer(403, { error: 'not yours to decide' });
    known.status = body.status;
    return answer(200, { stream_id: id, status: known.status });
  }
  if (url.pathname === '/status') return answer(200, { stream_id: id, status: known.status ?? 'enabled' });
  if (url.pathname === '/verify') {
    answer(204);
    known.verifications += 1;
    if (switches.mute) return undefined;
    const { wrong } = switches;
    switches.wrong = null;
    const subject = { format: 'opaque', id: wrong === 'subject' ? randomUUID() : id };
    const state = wrong === 'state' ? 'made up' : body.state;
    await deliver({ sub_id: subject, events: { [VERIFICATION]: { state } } });
    return undefined;
  }
  return answer(404);
});
server.listen(0, '127.0.0.1', () => console.log(server.address().port));

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line);
  if (command.event) {
    console.log(JSON.stringify(await deliver(command.event, command.tamper)));
  } else if (command.poison !== undefined) {
    queue.set(`poison-${queue.size}`, command.poison);
    wake();
    console.log('"queued"');
  } else if (command.status) {
    known.status = command.status;
    console.log('"so be it"');
  } else if (command.set) {
    Object.assign(switches, command.set);
    console.log('"so be it"');
  } else {
    console.log(JSON.stringify({ ...known, queued: queue.size }));
  }
}
process.exit(0);
