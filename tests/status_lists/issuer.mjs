// An issuer with status lists, which npm's @sd-jwt/jwt-status-list makes and judges:
//
//     node issuer.mjs FOLDER        FOLDER holds node_modules/@sd-jwt/jwt-status-list
//
// Prints its port. Then each line of standard input is a command in JSON, answered by a line: {"mint": CLAIMS} signs an
// access token; {"publish": {path, bits, values, claims, header, other}} publishes a list at a path, signed by a key that
// is not published if `other`; {"bomb": {path, bytes}} one of so many zero bytes; {"answer": {path, status}} answers with
// this status, {"body": {path, body}} with this text; {"fetches": PATH} counts the requests; {"judge": {jwt, key}} verifies a list and returns its claims and
// the indexes that are not 0.
import { createInterface } from 'node:readline';
import { createServer } from 'node:http';
import { createPublicKey, generateKeyPairSync, sign, verify } from 'node:crypto';
import { createRequire } from 'node:module';
import { deflateSync } from 'node:zlib';

const require = createRequire(`${process.argv[2]}/`);
const { StatusList, createHeaderAndPayload, getListFromStatusListJWT } = require('@sd-jwt/jwt-status-list');

const [own, other] = [0, 1].map(() => generateKeyPairSync('ec', { namedCurve: 'P-256' }));
const jwks = { keys: [{ ...own.publicKey.export({ format: 'jwk' }), kid: 'lists', alg: 'ES256', use: 'sig' }] };
const published = new Map();
const fetches = new Map();

const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
function signed(header, payload, key) {
  const input = `${encode({ alg: 'ES256', kid: 'lists', ...header })}.${encode(payload)}`;
  const signature = sign('sha256', Buffer.from(input), { key, dsaEncoding: 'ieee-p1363' });
  return `${input}.${signature.toString('base64url')}`;
}

const server = createServer((request, response) => {
  if (request.url === '/jwks') return response.end(JSON.stringify(jwks));
  fetches.set(request.url, (fetches.get(request.url) ?? 0) + 1);
  const { status, body } = published.get(request.url) ?? { status: 404, body: '' };
  response.writeHead(status, { 'content-type': 'application/statuslist+jwt' }).end(body);
});
const origin = () => `http://127.0.0.1:${server.address().port}`;

const commands = {
  mint: (claims) => signed({ typ: 'at+jwt' }, { iss: origin(), ...claims }, own.privateKey),
  publish({ path, bits, values, claims, header, other: foreign }) {
    const now = Math.floor(Date.now() / 1000);
    const list = new StatusList(values, bits);
    const made = createHeaderAndPayload(list, { iss: origin(), sub: `${origin()}${path}`, iat: now }, { alg: 'ES256' });
    const payload = Object.fromEntries(Object.entries({ ...made.payload, ...claims }).filter(([, value]) => value !== null));
    const body = signed({ ...made.header, ...header }, payload, (foreign ? other : own).privateKey);
    published.set(path, { status: 200, body });
    return body;
  },
  bomb({ path, bytes }) {
    const lst = deflateSync(Buffer.alloc(bytes), { level: 9 }).toString('base64url');
    const payload = { sub: `${origin()}${path}`, iat: Math.floor(Date.now() / 1000), status_list: { bits: 1, lst } };
    const body = signed({ typ: 'statuslist+jwt' }, payload, own.privateKey);
    published.set(path, { status: 200, body });
    return body.length;
  },
  body({ path, body }) {
    published.set(path, { status: 200, body });
    return body.length;
  },
  answer({ path, status }) {
    published.set(path, { status, body: '' });
    return status;
  },
  fetches: (path) => fetches.get(path) ?? 0,
  judge({ jwt, key }) {
    const [header, payload, signature] = jwt.split('.');
    const options = { key: createPublicKey({ key, format: 'jwk' }), dsaEncoding: 'ieee-p1363' };
    const isSigned = verify('sha256', Buffer.from(`${header}.${payload}`), options, Buffer.from(signature, 'base64url'));
    const decode = (part) => JSON.parse(Buffer.from(part, 'base64url'));
    const list = getListFromStatusListJWT(jwt);
    const set = list.statusList.flatMap((value, index) => (value === 0 ? [] : [[index, value]]));
    const { status_list: { bits }, ...claims } = decode(payload);
    return { isSigned, header: decode(header), claims, bits, entries: list.statusList.length, set };
  },
};

server.listen(0, '127.0.0.1', async () => {
  console.log(server.address().port);
  for await (const line of createInterface({ input: process.stdin })) {
    const [[name, argument]] = Object.entries(JSON.parse(line));
    let answer;
    try {
      answer = commands[name](argument);
    } catch (error) {
      answer = { error: String(error) };
    }
    console.log(JSON.stringify({ answer }));
  }
  process.exit(0);
});
