// A service that answers with who is calling: node demo.mjs PORT [JWKS_URL]

import { createServer } from 'node:http';
import { identity, identityReader } from './identity.mjs';

const [port, jwksUrl] = process.argv.slice(2);
const authenticated = identity(identityReader({ jwksUrl }));

const server = createServer((request, response) =>
  authenticated(request, response, () => {
    const { tokenId, expiresAt, userId, email, scopes } = request.identity;
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({ jti: tokenId, expires: expiresAt / 1000, user: userId, email, scopes }));
  }),
);
server.listen(Number(port), '127.0.0.1', () => console.log(server.address().port));
