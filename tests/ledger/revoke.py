"""Another service's way to revoke, with nothing but Python's redis client.

    revoke.py PORT DATABASE ISSUER TOKEN_ID EXPIRES   one token, until EXPIRES (seconds since 1970)
    revoke.py PORT DATABASE ISSUER user USER EXPIRES  all tokens of a user up to now
"""

import sys
import time

import redis

port, database, issuer, *target, expires = sys.argv[1:]
client = redis.Redis(port=int(port), db=int(database), decode_responses=True)

if len(target) == 1:
    kind, id, at = "token", target[0], "*"  # Every token of that id, whenever issued.
else:
    kind, id, at = "user", target[1], str(time.time_ns() // 1_000_000)

with client.pipeline(transaction=True) as both:  # MULTI and EXEC around the two.
    both.set(f"doorward:{{r}}:{issuer}:{kind}:{id}", f"{at} revoked", exat=int(expires))
    both.xadd(
        "doorward:{r}:log",
        {
            "issuer": issuer,
            "kind": kind,
            "id": id,
            "at": at,
            "expires": int(expires) * 1000,
            "origin": "revoked",
            "reason": "by a python service",
        },
    )
    print(both.execute()[1])
