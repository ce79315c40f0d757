#!/usr/bin/env bash
# Prints a Secret with a new password for Doorward's Redis:
#
#     k8s/redis/new-secret.sh | kubectl -n shop create -f -
#
# `create` never replaces one that is there. The ACL lets Doorward touch its own keys and nothing
# else. A service that writes sign-outs itself gets its own user here; `adopt` needs
# `%R~*blacklist:*` besides, and a Redis Cluster `+cluster|slots`.
set -euo pipefail

password=$(head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n')
cat <<YAML
apiVersion: v1
kind: Secret
metadata:
  name: doorward-redis
stringData:
  password: "$password"
  users.acl: |
    user default off
    user doorward on >$password resetkeys ~doorward:* resetchannels -@all +@connection +@read +@write +@transaction -@dangerous +info +time +wait
YAML
