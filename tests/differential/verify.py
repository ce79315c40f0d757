"""Judges tokens with joserfc: `verify.py POLICY < TOKENS`.

One token a line, in base64; answers one line each: `allow`, or why not.
"""

import base64
import json
import sys

from joserfc import jwk, jwt
from joserfc.jws import JWSRegistry

policy = json.load(open(sys.argv[1]))


def registry(algorithms):
    registry = JWSRegistry(algorithms=algorithms, strict_check_header=False)
    registry.max_header_length = policy["max_bytes"]
    return registry


issuers = [
    {
        "symmetric": issuer["symmetric"],
        "keys": [(key.get("kid"), jwk.import_key(key)) for key in issuer["keys"]],
        "registry": registry(issuer["algorithms"]),
        "claims": jwt.JWTClaimsRegistry(
            now=policy["now"],
            leeway=policy["leeway"],
            iss={"essential": True, "value": issuer["issuer"]},
            aud={"essential": True, "value": issuer["audience"]},
            exp={"essential": True},
            sub={"essential": True, "allow_blank": True},
        ),
    }
    for issuer in policy["issuers"]
]


def judge(token, issuer):
    refused = "no key"
    for kid, key in issuer["keys"]:
        try:
            decoded = jwt.decode(token, key, registry=issuer["registry"])
            if "kid" in decoded.header and not issuer["symmetric"] and decoded.header["kid"] != kid:
                refused = "another key's kid"
                continue
            kind = decoded.header.get("typ", "JWT").lower()
            if kind.removeprefix("application/") not in policy["types"]:
                return "typ"
            issuer["claims"].validate(decoded.claims)
            return "allow"
        except Exception as error:
            # An error of a key that does not match is less specific.
            if refused == "no key" or type(error).__name__ not in ("BadSignatureError", "UnsupportedAlgorithmError"):
                refused = f"{type(error).__name__}: {error}"
    return refused


for line in sys.stdin:
    token = base64.b64decode(line)
    verdicts = [judge(token, issuer) for issuer in issuers]
    verdict = "allow" if "allow" in verdicts else " / ".join(verdicts)
    print(verdict.encode("ascii", "backslashreplace").decode().replace("\n", " "))
