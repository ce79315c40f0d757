//! Faults of issuers.

use std::fmt::Write as _;

use super::faults::faulty;
use super::*;

/// The same for an issuer with other members, each on its line from line 2 on.
#[track_caller]
pub(super) fn check_issuer(members: &[(&str, &str)], begins: &str, says: &str) {
    let usual = [
        ("name", "main"),
        ("issuer", "https://a.test"),
        ("audiences", "[shop]"),
        ("keys", "{jwks_url: https://a.test/jwks}"),
    ];
    let mut text = "issuers:\n- # line 2\n".to_owned();
    for (name, value) in usual {
        let value = members.iter().find(|(other, _)| *other == name).map_or(value, |(_, value)| value);
        let _ = if value.is_empty() { writeln!(text, "  # left out") } else { writeln!(text, "  {name}: {value}") };
    }
    for (name, value) in members.iter().filter(|(name, _)| !usual.iter().any(|(other, _)| other == name)) {
        let _ = writeln!(text, "  {name}: {value}");
    }
    faulty(&text, begins, says);
}

#[test]
fn issuers() {
    faulty("issuers: []\n", "1: issuers", "must not be empty");
    check_issuer(&[("name", "")], "4: issuers[0].name", "is missing; it must be text");
    check_issuer(&[("audiences", "")], "3: issuers[0].audiences", "is missing; it must be text or a list");
    check_issuer(&[("keys", "")], "3: issuers[0].keys", "is missing; it must be a map");
    check_issuer(
        &[("name", "Main")],
        "3: issuers[0].name",
        "must be a name of `a` to `z`, `0` to `9` and `-`, at most 63 long (found \"Main\")",
    );
    check_issuer(&[("issuer", "a b")], "4: issuers[0].issuer", "must be text without spaces");
    check_issuer(
        &[("audiences", "shop")],
        "5: issuers[0].audiences",
        "must be a list of audiences, or `any` (found \"shop\")",
    );
    check_issuer(&[("audiences", "[]")], "5: issuers[0].audiences", "must not be empty");
    check_issuer(
        &[("audiences", "[shop, 5]")],
        "5: issuers[0].audiences[1]",
        "must be text; put it in quotes (found 5)",
    );
    check_issuer(
        &[("audiences", "[shop, '']")],
        "5: issuers[0].audiences[1]",
        "must be text without spaces, not empty",
    );
    check_issuer(&[("keys", "{}")], "6: issuers[0].keys", "must have exactly one of `jwks_url`, `discovery: true`");
    check_issuer(
        &[("keys", "{discovery: true, jwks_file: keys.json}")],
        "6: issuers[0].keys",
        "must have exactly one of",
    );
    check_issuer(
        &[("keys", "{jwks_url: 'http://a.test/jwks'}")],
        "6: issuers[0].keys.jwks_url",
        "must be https (or set `insecure: true`",
    );
    check_issuer(&[("keys", "{jwks_url: jwks}")], "6: issuers[0].keys.jwks_url", "must be a URL such as");
    check_issuer(&[("keys", "{jwks_url: 'file:///etc/passwd'}")], "6: issuers[0].keys.jwks_url", "must be a https URL");
    check_issuer(
        &[("keys", "{jwks_url: 'https://u:hush@a.test'}")],
        "6: issuers[0].keys.jwks_url",
        "must not contain a user or a password: URLs appear in logs (found \"https://…@a.test\")",
    );
    check_issuer(
        &[("keys", "{jwks_url: 'https://a.test/#x'}")],
        "6: issuers[0].keys.jwks_url",
        "must not have a fragment",
    );
    let list = |members: &str, begins: &str, says: &str| {
        check_issuer(&[("status_list", members)], &format!("7: issuers[0].status_list.{begins}"), says);
    };
    let normal = "must be scheme, host and path in normal form with a `/` at the end, without query";
    list("{prefixes: ['https://cdn.test/lists']}", "prefixes[0]", normal);
    list("{prefixes: ['https://cdn.test']}", "prefixes[0]", normal);
    list("{prefixes: ['https://CDN.test/']}", "prefixes[0]", normal);
    list("{prefixes: ['https://cdn.test/a/../']}", "prefixes[0]", normal);
    list("{prefixes: ['https://cdn.test/?list=/']}", "prefixes[0]", normal);
    list("{prefixes: ['http://cdn.test/']}", "prefixes[0]", "must be https (or set `insecure: true`");
    list("{valid: [0, 1]}", "valid", "must not contain 1 (INVALID): such tokens are revoked");
    list("{suspended: [2, 0]}", "suspended", "must not contain 0, which is among `valid`");
    list("{valid: [256]}", "valid[0]", "must be a whole number from 0 to 255");
    let publish = |members: &str, begins: &str, says: &str| {
        let members = format!("{{key_file: sign-p256.pem, {members}}}");
        check_issuer(
            &[("publish_status_list", &members)],
            &format!("7: issuers[0].publish_status_list.{begins}"),
            says,
        );
    };
    publish("uri: 'http://gw.test/status-lists/main'", "uri", "must be https");
    publish(&format!("uri: 'https://gw.test/{}'", "x".repeat(255)), "uri", "must have at most 255 bytes");
    publish("uri: 'https://gw.test/1', entries: 1025", "entries", "must be a power of two");
    publish("uri: 'https://gw.test/1', ttl: 10m", "lifetime", "must be at least twice `ttl`");
    check_issuer(
        &[("publish_status_list", "{uri: 'https://gw.test/1', key_file: sign-p384.pem}")],
        "7: issuers[0].publish_status_list.key_file",
        "must have a PKCS #8 key of EC P-256",
    );
    check_issuer(
        &[("issuer", "shop"), ("status_list", "{}")],
        "7: issuers[0].status_list.prefixes",
        "must not be empty where `issuer` is not a URL",
    );
    check_issuer(
        &[("keys", "{discovery: true}"), ("issuer", "shop")],
        "6: issuers[0].keys.discovery",
        "needs an `issuer` that is a URL",
    );
    check_issuer(
        &[("keys", "{discovery: true}"), ("issuer", "http://a.test")],
        "4: issuers[0].issuer",
        "must be https",
    );
    check_issuer(
        &[("keys", "{jwks_file: missing.json}")],
        "6: issuers[0].keys.jwks_file",
        "/testdata/missing.json: No such file",
    );
    check_issuer(&[("keys", "{jwks_file: nothing}")], "6: issuers[0].keys.jwks_file", "/testdata/nothing is empty");
    check_issuer(
        &[("keys", "{jwks_file: page.html}")],
        "6: issuers[0].keys.jwks_file",
        "must be a JSON Web Key Set: parse as JSON: expected value at line 1",
    );
    check_issuer(
        &[("keys", "{jwks: {key: []}}")],
        "6: issuers[0].keys.jwks",
        "must be a JSON Web Key Set: no array `keys`",
    );
    check_issuer(&[("keys", "{jwks: []}")], "6: issuers[0].keys.jwks", "must be a map");
    check_issuer(
        &[("keys", "{secret_file: secret-16}")],
        "6: issuers[0].keys.secret_file",
        "has 16 bytes; it must have at least 32",
    );
    check_issuer(
        &[("keys", "{secret_file: secret-16}"), ("algorithms", "[HS512]")],
        "6: issuers[0].keys.secret_file",
        "at least 64",
    );
    check_issuer(&[("keys", "{secret_file: empty}")], "6: issuers[0].keys.secret_file", "/testdata/empty is empty");
    check_issuer(
        &[("keys", "{jwks_url: 'https://a.test', cooldown: 0s}")],
        "6: issuers[0].keys.cooldown",
        "must be from 1s to 1h (found \"0s\")",
    );
    check_issuer(
        &[("algorithms", "[none]")],
        "7: issuers[0].algorithms[0]",
        "must be one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA",
    );
    check_issuer(&[("algorithms", "[rs256]")], "7: issuers[0].algorithms[0]", "must be one of RS256");
    check_issuer(
        &[("algorithms", "[RS256, HS256]")],
        "7: issuers[0].algorithms[1]",
        "must be an asymmetric one: HS* needs `keys.secret_file` (found \"HS256\")",
    );
    check_issuer(
        &[("algorithms", "[RS256]"), ("keys", "{secret_file: secret-64}")],
        "7: issuers[0].algorithms[0]",
        "must be one of HS256, HS384, HS512",
    );
    check_issuer(&[("algorithms", "[]")], "7: issuers[0].algorithms", "must not be empty");
    check_issuer(
        &[("token_types", "[JWT, application/Logout+JWT]")],
        "7: issuers[0].token_types[1]",
        "must not be allowed",
    );
    check_issuer(&[("proof", "always")], "7: issuers[0].proof", "must be `verify`, `required` or `ignore`");
    check_issuer(&[("dpop", "{window: 2h}")], "7: issuers[0].dpop.window", "must be from 1s to 1h (found \"2h\")");
    check_issuer(&[("dpop", "{replay: none}")], "7: issuers[0].dpop.replay", "must be `shared` or `local`");
    check_issuer(&[("leeway", "2h")], "7: issuers[0].leeway", "must be from 0s to 1h (found \"2h\")");
    check_issuer(&[("leeway", "thirty")], "7: issuers[0].leeway", "must be a duration such as");
    check_issuer(&[("max_lifetime", "10y")], "7: issuers[0].max_lifetime", "must be from 1s to 400d");
    check_issuer(
        &[("claims", "{user_id: /}")],
        "7: issuers[0].claims.user_id",
        "must be the name of a claim, or a JSON pointer",
    );
    check_issuer(
        &[("claims", "{client_id: [azp, '/a~2']}")],
        "7: issuers[0].claims.client_id[1]",
        "must be the name of a claim",
    );
    check_issuer(
        &[("backchannel_logout", "{audiences: []}")],
        "7: issuers[0].backchannel_logout.audiences",
        "must not be empty",
    );
    check_issuer(
        &[("introspection", "{url: 'https://a.test', client_id: x}")],
        "7: issuers[0].introspection.client_secret_file",
        "is missing",
    );
    let second = |name: &str, iss: &str| {
        format!(
            "{}- {{name: {name}, issuer: {iss}, audiences: any, keys: {{discovery: true}}}}\n",
            "issuers:\n- {name: main, issuer: https://a.test, audiences: any, keys: {discovery: true}}\n"
        )
    };
    faulty(&second("main", "https://b.test"), "3: issuers[1].name", "another issuer has this name");
    faulty(&second("b", "https://a.test"), "3: issuers[1].issuer", "another entry has this issuer");
    faulty(&second("b", "[https://b.test, https://a.test]"), "3: issuers[1].issuer", "another entry has this issuer");
    for (formerly, name) in [("[main]", 0), ("[x, x]", 1)] {
        let at = format!("7: issuers[0].formerly[{name}]");
        check_issuer(&[("formerly", formerly)], &at, "is the name of this issuer, or a former name of it, already");
    }
    let split = "audiences: any, keys: {discovery: true}, formerly: [main]}";
    good(&format!(
        "{}- {{name: c, issuer: 'https://c.test', {split}\n",
        second("b, formerly: [main]", "https://b.test")
    ));
    check_issuer(&[("issuer", "[]")], "4: issuers[0].issuer", "must not be empty");
    check_issuer(&[("accept", "[id]")], "7: issuers[0].accept", "must contain `access`");
    check_issuer(&[("tenants", "[a]")], "7: issuers[0].tenants", "needs a `{tenant}` in `issuer`");
    let template = ("issuer", "'https://a.test/{tenant}/v2.0'");
    check_issuer(&[template, ("tenants", "all")], "7: issuers[0].tenants", "or `any`");
    check_issuer(&[template, ("tenants", "[a/b]")], "7: issuers[0].tenants[0]", "must be a tenant id");
    check_issuer(&[template], "3: issuers[0].tenants", "is missing; it must be a list of tenant ids");
    for (written, message) in [
        ("'https://a.test/{tenantid}/v2.0'", "may have one `{tenant}`, and no other"),
        ("'https://a.test/{tenant}/{tenant}'", "may have one `{tenant}`, and no other"),
        ("'https://{tenant}.test/v2.0'", "must have the `{tenant}` in the path"),
    ] {
        check_issuer(&[("issuer", written), ("tenants", "any")], "4: issuers[0].issuer", message);
    }
    check_issuer(
        &[template, ("tenants", "any"), ("keys", "{discovery: true}")],
        "6: issuers[0].keys.discovery",
        "needs an `issuer` without `{tenant}`; write `jwks_url` instead",
    );
}
