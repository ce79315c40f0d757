// A real authorization server for the introspection tests: node provider.mjs FOLDER, where FOLDER
// holds node_modules/oidc-provider. Prints its port; then mints or revokes tokens by commands on
// standard input.
import { createInterface } from 'node:readline';
import { createServer } from 'node:http';
import { pathToFileURL } from 'node:url';

const { default: Provider } = await import(
  pathToFileURL(`${process.argv[2]}/node_modules/oidc-provider/lib/index.js`).href
);

const provider = new Provider('https://provider.test', {
  clients: [
    {
      client_id: 'https://doorward.example',
      client_secret: 's3cret:with/odd+characters%',
      redirect_uris: [],
      response_types: [],
      grant_types: [],
    },
    { client_id: 'shop-web', client_secret: 'another', redirect_uris: ['https://shop.example/cb'] },
  ],
  ttl: { AccessToken: 600, Grant: 600 },
  features: { introspection: { enabled: true, allowedPolicy: () => true } },
});
const app = createServer(provider.callback());
app.listen(0, '127.0.0.1', () => console.log(app.address().port));

for await (const line of createInterface({ input: process.stdin })) {
  const [verb, argument] = line.split(' ');
  if (verb === 'mint') {
    const grant = new provider.Grant({ accountId: argument, clientId: 'shop-web' });
    const grantId = await grant.save();
    const client = await provider.Client.find('shop-web');
    const token = new provider.AccessToken({ accountId: argument, client, grantId, gty: 'authorization_code', scope: 'read', aud: 'demo' });
    token.expiresIn = 600;
    console.log(await token.save());
  } else {
    await (await provider.AccessToken.find(argument)).destroy();
    console.log('destroyed');
  }
}
process.exit(0);
