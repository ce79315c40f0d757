// drive.mjs PORT ISSUER KIND ID EXPIRES: revokes by clients/node, prints the position in the log.

import { createRequire } from "node:module";
import { Doorward } from "../../clients/node/doorward.mjs";

const { createClient } = createRequire(`${process.env.NODE_REDIS}/`)("redis");
const [port, issuer, kind, target, expires] = process.argv.slice(2);
const redis = await createClient({ url: `redis://127.0.0.1:${port}` }).connect();
const doorward = new Doorward(redis, issuer);
const revoke = {
  token: () => doorward.revokeToken(target, Number(expires), "test"),
  session: () => doorward.revokeSession(target, "test"),
  user: () => doorward.revokeUser(target, "test"),
};
console.log(await revoke[kind]());
await redis.close();
