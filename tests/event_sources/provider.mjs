// A real OpenID provider, npm's oidc-provider, and a scripted browser before it:
//
//     node provider.mjs FOLDER DOORWARD ADMIN_KEY     FOLDER holds node_modules/oidc-provider
//
// Prints its port. Then each line of standard input is a command in JSON, answered by a line:
// {"login": USER} goes through the authorization code flow, {"refresh": USER}, {"logout": USER} at the
// provider's own page, {"revoke": USER} the refresh token at the provider (RFC 7009).
import { createHash, randomBytes } from 'node:crypto';

import { listen, load, obey, resourceIndicators } from '../support/node_process.mjs';

const [folder, doorward, adminKey] = process.argv.slice(2);
const { default: Provider } = await load(folder, 'oidc-provider/lib/index.js');

const app = await listen();
const issuer = `http://127.0.0.1:${app.address().port}`;
const redirectUri = 'https://shop.example/cb';
const sessions = new Map(); // grant → sid

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'shop-web', client_secret: 'secret-of-the-shop', redirect_uris: [redirectUri],
      grant_types: ['authorization_code', 'refresh_token'], post_logout_redirect_uris: ['https://shop.example/'],
      backchannel_logout_uri: `${doorward}/oidc/backchannel-logout`, backchannel_logout_session_required: true,
    },
  ],
  cookies: { keys: ['cookie-key'] },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id, email: `${id}@example.com` }) }),
  issueRefreshToken: () => true,
  rotateRefreshToken: false,
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  // Access tokens for the API are JWTs (RFC 9068), with the session that they belong to.
  extraTokenClaims: (ctx) => {
    const source = ctx.oidc.entities.AuthorizationCode ?? ctx.oidc.entities.RefreshToken;
    if (source?.grantId) sessions.set(source.grantId, source.sid);
    return { sid: source?.sid };
  },
  features: {
    devInteractions: { enabled: false },
    backchannelLogout: { enabled: true },
    rpInitiatedLogout: { enabled: true },
    revocation: { enabled: true },
    resourceIndicators,
  },
  // Its own agent refuses to call private addresses, as Doorward has here.
  fetch: (url, { dispatcher: _, ...options }) => fetch(url, options),
});

// A JWT cannot be updated, so Doorward is notified: a revoked grant ends the session. This handler
// is sufficient.
provider.on('grant.revoked', (_, grantId) => {
  const body = JSON.stringify({ kind: 'session', issuer: 'provider', id: sessions.get(grantId) });
  const headers = { authorization: `Bearer ${adminKey}`, 'content-type': 'application/json' };
  fetch(`${doorward}/v1/revocations`, { method: 'POST', headers, body });
});
provider.on('server_error', (_, error) => console.error(error));
provider.on('backchannel.error', (_, error) => console.error('backchannel', error));

const callback = provider.callback();
let whoLogsIn;
app.on('request', async (request, response) => {
  if (!request.url.startsWith('/interaction/')) return callback(request, response);
  // Where people would see a form: the script logs in and consents.
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  if (prompt.name === 'login') {
    return provider.interactionFinished(request, response, { login: { accountId: whoLogsIn } });
  }
  const grant = grantId ? await provider.Grant.find(grantId) : new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  grant.addOIDCScope('openid offline_access');
  grant.addResourceScope('urn:api', 'read');
  return provider.interactionFinished(request, response, { consent: { grantId: await grant.save() } }, { mergeWithLastSubmission: true });
});

/** Follows redirects on the provider's own pages with cookies, as a browser does. */
async function browse(jar, url, options = {}) {
  let [next, init] = [new URL(url, issuer), options];
  for (let hops = 0; hops < 10; hops += 1) {
    const headers = { ...init.headers, cookie: [...jar].map(([name, value]) => `${name}=${value}`).join('; ') };
    const response = await fetch(next, { ...init, headers, redirect: 'manual' });
    for (const cookie of response.headers.getSetCookie()) {
      const [, name, value] = cookie.match(/^([^=]+)=([^;]*)/);
      if (value) jar.set(name, value);
      else jar.delete(name);
    }
    const location = response.headers.get('location');
    if (!location) return { response, text: await response.text(), at: next };
    next = new URL(location, next);
    init = {};
    if (next.origin !== issuer) return { at: next };
  }
  throw new Error('too many redirects');
}

const form = (fields) => ({
  method: 'POST',
  headers: { 'content-type': 'application/x-www-form-urlencoded' },
  body: new URLSearchParams(fields).toString(),
});
const client = { client_id: 'shop-web', client_secret: 'secret-of-the-shop' };
const token = async (fields) => {
  const { client_id, client_secret } = client;
  const request = form(fields);
  request.headers.authorization = `Basic ${Buffer.from(`${client_id}:${client_secret}`).toString('base64')}`;
  return fetch(`${issuer}${fields.token ? '/token/revocation' : '/token'}`, request);
};
const users = new Map();

const commands = {
  async login(user) {
    whoLogsIn = user;
    const jar = new Map();
    const verifier = randomBytes(32).toString('base64url');
    const query = new URLSearchParams({
      client_id: 'shop-web', response_type: 'code', redirect_uri: redirectUri, scope: 'openid offline_access read', prompt: 'consent',
      code_challenge: createHash('sha256').update(verifier).digest('base64url'), code_challenge_method: 'S256',
    });
    const { at, text } = await browse(jar, `/auth?${query}`);
    const code = at.searchParams.get('code');
    if (!code) throw new Error(`no code: ${at} ${text}`);
    const response = await token({ grant_type: 'authorization_code', code, redirect_uri: redirectUri, code_verifier: verifier });
    const tokens = await response.json();
    users.set(user, { jar, tokens });
    return tokens;
  },
  async refresh(user) {
    const { tokens } = users.get(user);
    return (await token({ grant_type: 'refresh_token', refresh_token: tokens.refresh_token })).json();
  },
  async logout(user) {
    const { jar, tokens } = users.get(user);
    const { text } = await browse(jar, `/session/end?id_token_hint=${tokens.id_token}`);
    const xsrf = text.match(/name="xsrf" value="([^"]+)"/)[1];
    const { response } = await browse(jar, '/session/end/confirm', form({ xsrf, logout: 'yes' }));
    return response.status;
  },
  async revoke(user) {
    const { tokens } = users.get(user);
    return (await token({ token: tokens.refresh_token, token_type_hint: 'refresh_token' })).status;
  },
};

await obey(app, commands);
