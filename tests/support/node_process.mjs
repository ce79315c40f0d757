// What peers written for node share: how they load npm's packages, listen, and obey `NodeProcess`.
import { createInterface } from 'node:readline';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

/** A module of a package, by its path below `node_modules` of a folder. */
export const load = (folder, module) => import(pathToFileURL(`${folder}/node_modules/${module}`).href);

/** A server on a free port, whose handler the caller adds. */
export async function listen() {
  const app = createServer();
  await new Promise((resolve) => app.listen(0, '127.0.0.1', resolve));
  return app;
}

/** oidc-provider's feature by which access tokens for the API are JWTs (RFC 9068). */
export const resourceIndicators = {
  enabled: true,
  defaultResource: () => 'urn:api',
  useGrantedResource: () => true,
  getResourceServerInfo: () => ({ scope: 'read', audience: 'demo', accessTokenFormat: 'jwt', accessTokenTTL: 600 }),
};

/** Prints the port. Then each line of standard input is a command in JSON, {NAME: ARGUMENT}, answered by a line. */
export async function obey(app, commands) {
  console.log(app.address().port);
  for await (const line of createInterface({ input: process.stdin })) {
    const [[name, argument]] = Object.entries(JSON.parse(line));
    try {
      console.log(JSON.stringify(await commands[name](argument)));
    } catch (error) {
      console.error(error);
      console.log(JSON.stringify({ failed: String(error), cause: error.cause }));
    }
  }
  process.exit(0);
}
