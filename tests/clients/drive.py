"""drive.py PORT ISSUER KIND ID EXPIRES: revokes by clients/python, prints the position in the log."""

import pathlib
import sys

import redis

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "clients/python"))
from doorward_client import Doorward  # noqa: E402

port, issuer, kind, target, expires = sys.argv[1:]
doorward = Doorward(redis.Redis(port=int(port), decode_responses=True), issuer)
if kind == "token":
    print(doorward.revoke_token(target, int(expires), "test"))
else:
    print(getattr(doorward, f"revoke_{kind}")(target, "test"))
