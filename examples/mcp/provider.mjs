// The authorization server: npm's oidc-provider, with a user who agrees to everything.
//
//     node provider.mjs FOLDER PORT RESOURCE REDIRECT_URI     FOLDER holds node_modules/oidc-provider
//
// Its tokens say for whom they are (`sub`: alice) and who acts for her (`act.sub`: the client, agent-7; RFC 8693).
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const [folder, port, resource, redirectUri] = process.argv.slice(2);
const { default: Provider, errors } = await import(pathToFileURL(`${folder}/node_modules/oidc-provider/lib/index.js`).href);
const issuer = `http://127.0.0.1:${port}`;

const provider = new Provider(issuer, {
  clients: [
    {
      client_id: 'agent-7', token_endpoint_auth_method: 'none', application_type: 'native', redirect_uris: [redirectUri],
      grant_types: ['authorization_code', 'refresh_token'],
    },
  ],
  cookies: { keys: ['cookie-key'] },
  findAccount: (_, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
  interactions: { url: (_, interaction) => `/interaction/${interaction.uid}` },
  extraTokenClaims: (_, token) => ({ act: { sub: token.clientId } }),
  scopes: ['openid', 'offline_access', 'mcp', 'transfer'],
  features: {
    devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true,
      useGrantedResource: () => true,
      getResourceServerInfo: (_, indicator) => {
        if (indicator !== resource) throw new errors.InvalidTarget();
        return { scope: 'mcp transfer', audience: resource, accessTokenFormat: 'jwt', accessTokenTTL: 600 };
      },
    },
  },
});

async function agree(request, response) {
  const { prompt, params, session, grantId } = await provider.interactionDetails(request, response);
  if (prompt.name === 'login') {
    return provider.interactionFinished(request, response, { login: { accountId: 'alice' } });
  }
  const known = grantId && await provider.Grant.find(grantId);
  const grant = known || new provider.Grant({ accountId: session.accountId, clientId: params.client_id });
  if (prompt.details.missingOIDCScope) grant.addOIDCScope(prompt.details.missingOIDCScope.join(' '));
  for (const [indicator, scopes] of Object.entries(prompt.details.missingResourceScopes ?? {})) {
    grant.addResourceScope(indicator, scopes.join(' '));
  }
  const consent = { grantId: await grant.save() };
  return provider.interactionFinished(request, response, { consent }, { mergeWithLastSubmission: true });
}

const callback = provider.callback();
createServer((request, response) => {
  if (!request.url.startsWith('/interaction/')) return callback(request, response);
  return agree(request, response).catch((error) => {
    console.error(error);
    response.writeHead(500).end(String(error));
  });
}).listen(Number(port), '127.0.0.1');
