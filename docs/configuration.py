"""Makes docs/configuration.md from doorward.schema.json and the examples below.

    configuration.py --write | --check
"""

import json
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
PAGE = HERE / "configuration.md"

HEAD = """# Configuration

Every key of `doorward.yaml`, made from its schema by `docs/generate.sh`. Unknown keys are errors;
`doorward validate --config doorward.yaml` names every fault at once. Durations are written `30s`, `5m`, `24h`. Any
scalar can be overridden by the environment: `revocation.redis.url` by `DOORWARD__REVOCATION__REDIS__URL`. A secret has
a key `…_file` beside it, which is better. A change takes effect
[without a restart](operations.md#configuration-in-force), but for the keys whose column `restart` says yes.

An editor with the YAML language server completes keys and shows their descriptions with this first line:

```yaml
# yaml-language-server: $schema=https://example.com/doorward.schema.json
```

where the address is that of a copy of [doorward.schema.json](../doorward.schema.json), or a path to it.
"""

# One example for each section, in the order of the page. A test validates each.
EXAMPLES = {
    "listen": """listen:
  check: unix:/run/doorward/check.sock   # or 127.0.0.1:9191
  http: 0.0.0.0:9192
  admin: 127.0.0.1:9193                  # an address of its own for what needs an admin key
""",
    "issuers": """issuers:
  - name: main
    issuer: https://auth.example.com
    audiences: [shop]
    keys: {jwks_url: https://auth.example.com/jwks}
    algorithms: [RS256, ES256]
    leeway: 30s
    max_lifetime: 24h
    claims: {user_id: sub, email: email, client_id: [azp, client_id]}
""",
    "token": """token:
  from: [{header: authorization, scheme: Bearer}, {cookie: session}]
  forward: false                         # the service does not receive it
""",
    "proxy": """proxy:
  scheme: https                          # TLS ends before Envoy; the URI that a DPoP proof must name
  client_certificate: x-forwarded-client-cert
""",
    "identity": """identity:
  headers: {x-user-id: user_id, x-user-email: email, x-tenant: claim:/tenant}
  payload: {header: x-identity}
""",
    "rules": """rules:
  - {name: health, match: {path: /healthz, methods: [GET]}, access: public}
  - {name: logout, match: {path: /auth/logout, methods: [POST]}, access: sign_out}
  - name: admin
    match: {path_prefix: /admin}
    require: {scopes: [admin], claims: {role: [owner, admin]}, max_age: 15m}
    on_stale: deny
""",
    "api_keys": """api_keys:
  header: x-api-key
  platform_header: x-client-platform
  default: required
  keys:
    - id: web-shop
      sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b   # doorward hash-key --new
      platforms: [web]
      domains: [shop.example.com, "*.shop.example.com"]
""",
    "revocation": """revocation:
  store: redis
  redis:
    url: rediss://redis.example.com:6379/0
    min_replicas: 1
    relay: [rediss://redis.us.example.com:6379]   # another region: revocations are copied there
  max_staleness: 30s
  on_stale: deny
""",
    "signals": """signals:
  transmitters:
    - issuer: https://idp.example.com
      audience: https://doorward.example.com
      keys: {discovery: true}
      target_issuer: main
      subjects: [iss_sub, email]
""",
    "admin": """admin:
  keys:
    - name: auth-service
      sha256: 2bb80d537b1da3e38bd30361aa855686bde0eacd7162fef6a25fe97bf527a25b   # doorward hash-key --new
      may: [revoke]
""",
    "errors": """errors: {detail: code, realm: shop}     # answers have the code, and neither reason nor message
""",
    "telemetry": """telemetry:
  log: {format: json, level: info, decisions: denied}
""",
    "limits": """limits:
  token_cache_bytes: 64000000
  drain_delay: 5s
  drain: 10s
""",
}


def resolved(schema, definitions):
    """A schema with what its `$ref` says; its own words win."""
    seen = dict(schema)
    if "$ref" in seen:
        seen = {**resolved(definitions[seen.pop("$ref").rsplit("/", 1)[1]], definitions), **seen}
    for key in ("anyOf", "oneOf"):
        choices = [item for item in seen.get(key, []) if item.get("type") != "null"]
        if len(choices) == 1 and len(choices) != len(seen[key]):
            seen.pop(key)
            seen = {**resolved(choices[0], definitions), **seen}
    return seen


def kind(schema, definitions):
    """The type of a value in a few words."""
    schema = resolved(schema, definitions)
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{json.dumps(item).strip(chr(34))}`" for item in schema["enum"] if item is not None)
    for key in ("oneOf", "anyOf"):
        if key in schema:
            kinds = [kind(item, definitions) for item in schema[key]]
            return (", " if all(item.startswith("`") for item in kinds) else " or ").join(dict.fromkeys(kinds))
    types = schema.get("type", [])
    types = [name for name in ([types] if isinstance(types, str) else types) if name != "null"]
    if schema.get("title") == "duration":
        return f"duration, {schema['x-minimum']} to {schema['x-maximum']}"
    words = {"string": "text", "integer": "number", "number": "number", "boolean": "`true`, `false`"}
    if types == ["array"]:
        return f"list of {kind(schema.get('items', {}), definitions)}"
    if types == ["object"]:
        open_map = schema.get("additionalProperties")
        return f"map to {kind(open_map, definitions)}" if isinstance(open_map, dict) else "map"
    bounds = [str(schema[bound]) for bound in ("minimum", "maximum") if bound in schema]
    word = " or ".join(words.get(name, name) for name in types) or "any value"
    return f"{word}, {' to '.join(bounds)}" if len(bounds) == 2 and "number" in word else word


def rows(place, schema, definitions, restart, above=()):
    """Each key below a place: path, type, default, whether a change needs a restart, description."""
    schema = resolved(schema, definitions)
    if "properties" in schema:
        required = schema.get("required", [])
        for name, member in schema["properties"].items():
            whole = resolved(member, definitions)
            path = f"{place}.{name}" if place else name
            nested = members(whole, definitions)
            default = whole.get("default")
            shown = "required" if name in required else "" if nested or default is None else f"`{json.dumps(default, ensure_ascii=False)}`"
            text = " ".join(whole.get("description", "").split())
            needs = restart or whole.get("x-restart", False)
            yield path, kind(whole, definitions), shown.replace('`"', "`").replace('"`', "`"), "yes" if needs else "", text
            if nested and nested not in above:
                suffix = "[]" if whole.get("type") == "array" or "items" in whole else ".NAME" if "properties" not in whole else ""
                yield from rows(path + suffix, definitions_schema(whole, definitions), definitions, needs, (*above, nested))


def definitions_schema(schema, definitions):
    """What the keys of a nested value are."""
    schema = resolved(schema, definitions)
    for choice in schema.get("oneOf", []) + schema.get("anyOf", []):
        if "properties" in resolved(choice, definitions):
            return resolved(choice, definitions)
    if "properties" in schema:
        return schema
    if "items" in schema:
        return definitions_schema(schema["items"], definitions)
    if isinstance(schema.get("additionalProperties"), dict):
        return definitions_schema(schema["additionalProperties"], definitions)
    return schema


def members(schema, definitions):
    found = definitions_schema(schema, definitions)
    return ",".join(found["properties"]) if "properties" in found else ""


def cell(text):
    return text.replace("|", "\\|")


def page():
    schema = json.loads((HERE.parent / "doorward.schema.json").read_text())
    definitions = schema.get("$defs", {})
    order = [*EXAMPLES, *(name for name in schema["properties"] if name not in EXAMPLES)]
    text = HEAD
    for name in order:
        if name not in schema["properties"]:
            sys.exit(f"error: the example {name} is for no section of the schema")
        section = resolved(schema["properties"][name], definitions)
        text += f"\n## `{name}`\n\n{' '.join(section.get('description', '').split())}\n"
        if name in EXAMPLES:
            text += f"\n```yaml\n{EXAMPLES[name]}```\n"
        place = name + ("[]" if section.get("type") == "array" else "")
        text += "\n| key | type | default | restart | |\n| --- | --- | --- | --- | --- |\n"
        restart = section.get("x-restart", False)
        found = list(rows(place, definitions_schema(section, definitions), definitions, restart))
        for row in found or [(name, kind(section, definitions), "", "", "")]:
            path, *rest = row
            text += f"| `{path}` | " + " | ".join(cell(item) for item in rest) + " |\n"
    return text


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page())
    elif not PAGE.exists() or PAGE.read_text() != page():
        sys.exit("error: docs/configuration.md is not up to date: run docs/generate.sh")
