// Clients that use bound tokens, npm's oauth4webapi and dpop, and npm's oidc-provider as the issuer of the tokens:
//
//     node clients.mjs PROVIDER CLIENTS     folders that hold node_modules
//
// Prints the provider's port. Then each line of standard input is a command in JSON, answered by a line:
// {"token": ALG} gets a token that is bound to a new key, {"request": {url, method}} uses it by oauth4webapi,
// {"prove": …} by a proof of dpop, {"again": …} by the same proof once more, {"bearer": …} without any.
import { listen, load, obey, resourceIndicators } from '../support/node_process.mjs';

const [providers, clients] = process.argv.slice(2);
const { default: Provider } = await load(providers, 'oidc-provider/lib/index.js');
const oauth = await load(clients, 'oauth4webapi/build/index.js');
const dpop = await load(clients, 'dpop/build/index.js');

const app = await listen();
const issuer = `http://127.0.0.1:${app.address().port}`;
const secret = 'secret-of-the-shop';
const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'shop', client_secret: secret, grant_types: ['client_credentials'], redirect_uris: [],
      response_types: [], token_endpoint_auth_method: 'client_secret_post', dpop_bound_access_tokens: true,
    },
  ],
  enabledJWA: { dPoPSigningAlgValues: ['ES256', 'Ed25519', 'EdDSA', 'RS256', 'PS256'] },
  features: {
    devInteractions: { enabled: false },
    clientCredentials: { enabled: true },
    dPoP: { enabled: true },
    resourceIndicators,
  },
});
provider.on('server_error', (_, error) => console.error(error));
app.on('request', provider.callback());

const server = { issuer, token_endpoint: `${issuer}/token` };
const client = { client_id: 'shop' };
const insecure = { [oauth.allowInsecureRequests]: true };
let keys, handle, token, lastProof;

const answer = async (response) => ({ status: response.status, body: await response.json() });

/** The answer to a request of oauth4webapi, which throws what is challenged. */
async function use(url, method, counted) {
  const options = { ...insecure, DPoP: handle };
  options[oauth.customFetch] = (...request) => { counted.proofs += 1; return fetch(...request); };
  return oauth.protectedResourceRequest(token, method, new URL(url), new Headers(), undefined, options);
}

async function plain(url, method, headers) {
  const response = await fetch(url, { method, headers });
  const said = await answer(response);
  // Challenges are read by the library's own parser.
  const again = { ...insecure, [oauth.customFetch]: async () => new Response(null, { status: response.status, headers: response.headers }) };
  try {
    await oauth.protectedResourceRequest(token, method, new URL(url), new Headers(), undefined, again);
  } catch (error) {
    said.challenges = error.cause;
  }
  return said;
}

const commands = {
  async token(alg) {
    keys = await oauth.generateKeyPair(alg, { extractable: true });
    handle = oauth.DPoP(client, keys);
    const grant = await oauth.clientCredentialsGrantRequest(
      server, client, oauth.ClientSecretPost(secret), new URLSearchParams({ scope: 'read' }), { ...insecure, DPoP: handle },
    );
    const tokens = await oauth.processClientCredentialsResponse(server, client, grant);
    token = tokens.access_token;
    return tokens;
  },
  async request({ url, method }) {
    const counted = { proofs: 0 };
    let response;
    try {
      response = await use(url, method, counted);
    } catch (error) {
      if (!oauth.isDPoPNonceError(error)) throw error;
      response = await use(url, method, counted);
    }
    return { ...(await answer(response)), ...counted };
  },
  async prove({ url, method }) {
    let nonce;
    for (;;) {
      lastProof = await dpop.generateProof(keys, url.split('?')[0], method, nonce, token);
      const response = await fetch(url, { method, headers: { authorization: `DPoP ${token}`, dpop: lastProof } });
      if (response.status !== 401 || nonce) return answer(response);
      nonce = response.headers.get('dpop-nonce') ?? 'none';
    }
  },
  again: ({ url, method }) => plain(url, method, { authorization: `DPoP ${token}`, dpop: lastProof }),
  bearer: ({ url, method }) => plain(url, method, { authorization: `Bearer ${token}` }),
};

await obey(app, commands);
