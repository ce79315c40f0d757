// Judges tokens with jose, which is installed in FOLDER: `verify.mjs FOLDER POLICY < TOKENS`.
//
// One token a line, in base64; answers one line each: `allow`, or the reason of a refusal.
import { createRequire } from 'node:module'
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'

const require = createRequire(`${process.argv[2]}/`)
const { createLocalJWKSet, errors, jwtVerify } = require('jose')

const policy = JSON.parse(readFileSync(process.argv[3], 'utf8'))

const issuers = policy.issuers.map((issuer) => ({
  key: issuer.symmetric
    ? Buffer.from(issuer.keys[0].k, 'base64url')
    : createLocalJWKSet({ keys: issuer.keys }),
  options: {
    algorithms: issuer.algorithms,
    issuer: issuer.issuer,
    audience: issuer.audience,
    clockTolerance: policy.leeway,
    currentDate: new Date(policy.now * 1000),
    requiredClaims: ['exp', 'sub'],
  },
}))

async function verified(token, { key, options }) {
  try {
    return await jwtVerify(token, key, options)
  } catch (error) {
    if (!(error instanceof errors.JWKSMultipleMatchingKeys)) throw error
    for await (const candidate of error) {
      try {
        return await jwtVerify(token, candidate, options)
      } catch (error) {
        if (!(error instanceof errors.JWSSignatureVerificationFailed)) throw error
      }
    }
    throw new Error('no key of these')
  }
}

async function judge(token, issuer) {
  try {
    const { protectedHeader } = await verified(token, issuer)
    const type = (protectedHeader.typ ?? 'JWT').toLowerCase().replace(/^application\//, '')
    return policy.types.includes(type) ? 'allow' : 'typ'
  } catch (error) {
    return `${error.code ?? error.name}: ${error.message}`
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const token = Buffer.from(line, 'base64').toString('utf8')
  const verdicts = []
  for (const issuer of issuers) verdicts.push(await judge(token, issuer))
  const verdict = verdicts.includes('allow') ? 'allow' : verdicts.join(' / ')
  process.stdout.write(verdict.replaceAll(/[^ -~]/g, '?') + '\n')
}
