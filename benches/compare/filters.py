"""What stands in the place of ext_authz in the Envoys of compare.sh: functions of the filter's block and the cluster's."""

import json
import re

MARK = "\0"


def NOTHING(_block, _cluster):
    return "", ""


def changed(filters, pattern, replacement):
    """The same, with what the pattern finds replaced."""
    def change(block, cluster):
        block, cluster = filters(block, cluster)
        text, found = re.subn(pattern, replacement, block + MARK + cluster)
        assert found == 1, pattern
        return text.split(MARK)

    return change


def ext_authz(address, everything):
    def filters(block, cluster):
        if everything:  # Without allowed_headers.
            block = re.sub(r" {22}# What Doorward reads.*", "", block, flags=re.S)
        if address.startswith("unix:"):
            return block, cluster.replace("/run/doorward/check.sock", address[5:])
        port = address.rpartition(":")[2]
        socket_address = f"address:\n                    socket_address: {{address: 127.0.0.1, port_value: {port}}}\n"
        return block, re.sub(r"address:\n\s+pipe:\n\s+path: \S+\n", socket_address, cluster)

    return filters


def inside_envoy(file, facts):
    config = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
        "dynamic_module_config": {"name": "doorward_envoy", "do_not_close": True},
        "filter_name": "doorward",
        "filter_config": {"@type": "type.googleapis.com/google.protobuf.Struct", "value": {"config": str(file), "facts": facts}},
    }
    block = f"                  - name: doorward\n                    typed_config: {json.dumps(config)}\n\n"
    return lambda _block, _cluster: (block, "")


def jwt_authn(jwks, cache, size=1000):
    provider = {
        "issuer": "https://auth.example.com",
        "audiences": ["shop"],
        "local_jwks": {"inline_string": jwks},
        "forward": True,
        "claim_to_headers": [{"header_name": "x-user-id", "claim_name": "sub"}, {"header_name": "x-user-email", "claim_name": "email"}],
    }
    if cache:
        provider["jwt_cache_config"] = {"jwt_cache_size": size}
    config = {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication",
        "providers": {"main": provider},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "main"}}],
    }
    block = f"                  - name: envoy.filters.http.jwt_authn\n                    typed_config: {json.dumps(config)}\n\n"
    return lambda _block, _cluster: (block, "")
