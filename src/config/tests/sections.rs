//! Faults of each section, with place and message.

use std::fmt::Write as _;

use super::faults::{check, faulty};
use super::*;

/// The same for an issuer with other members, each on its line from line 2 on.
#[track_caller]
fn check_issuer(members: &[(&str, &str)], begins: &str, says: &str) {
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

#[test]
fn listeners() {
    check("listen: {check: localhost}", "2: listen.check", "must be an IP address and a port such as `127.0.0.1:9191`");
    check(
        "listen: {http: ':8080'}",
        "2: listen.http",
        "must be an IP address and a port such as `127.0.0.1:8080` or `0.0.0.0:8080` (found \":8080\")",
    );
    check("listen: {check: 'unix:run/x.sock'}", "2: listen.check", "must be `unix:` and the absolute path");
    check("listen: {mode: 660}", "2: listen.mode", "must be text such as `0660`");
    check("listen: {mode: 0999}", "2: listen.mode", "must be permissions in octal");
    check("listen: {http: 127.0.0.1:9191}", "2: listen.http", "must be another address than `listen.check`");
    check("listen: {admin: 127.0.0.1:9192}", "2: listen.admin", "must be an address of its own");
    check(
        "listen: {tls: {cert_file: key.pem, key_file: key.pem}}",
        "2: listen.tls.cert_file",
        "has no PEM `CERTIFICATE`",
    );
}

#[test]
fn tokens_and_identity() {
    check("token: {from: []}", "2: token.from", "must not be empty");
    check("token: {from: [{}]}", "2: token.from[0]", "must have exactly one of `header`, `cookie`, `query`");
    check("token: {from: [{header: a, cookie: b}]}", "2: token.from[0]", "must have exactly one of");
    check("token: {from: [{cookie: a, scheme: b}]}", "2: token.from[0].scheme", "only a `header` has a scheme");
    check("token: {from: [{header: 'a b'}]}", "2: token.from[0].header", "must be a header name such as `x-user-id`");
    check("token: {from: [{header: cookie}]}", "2: token.from[0].header", "must be written as `cookie: NAME`");
    check("token: {from: [{query: 'a&b'}]}", "2: token.from[0].query", "must be the name of a query parameter");
    check("token: {from: [{query: a}, {query: a}]}", "2: token.from[1]", "is written twice");
    check(
        "identity: {headers: {x-user: name}}",
        "2: identity.headers.x-user",
        "must be `user_id`, `email`, `session_id`",
    );
    check("identity: {headers: {x-user: 'claim:'}}", "2: identity.headers.x-user", "must be the name of a claim");
    for (name, says) in [
        (":path", "must not be a pseudo-header"),
        ("Host", "must not be a header that belongs to the connection"),
        ("transfer-encoding", "must not be a header that belongs to the connection"),
        ("authorization", "must be another header"),
        ("x-envoy-original-path", "must be another header"),
        ("x-forwarded-for", "must be another header"),
        ("X-Doorward-Stale", "must be another header"),
        ("x_user", "must be written with `-`"),
        ("x-a-b-c-d-e-f", "must have at most 5 dashes"),
        ("x user", "must be a header name such as"),
    ] {
        let at = format!("2: {}", KeyPath::root().key("identity").key("headers").key(name));
        check(&format!("identity: {{headers: {{\"{name}\": user_id}}}}"), &at, says);
    }
    check(
        "identity: {headers: {x-api-key: user_id}}",
        "2: identity.headers.x-api-key",
        "must be another header than `api_keys.header`",
    );
    check(
        "identity: {payload: {header: x-user-id}}",
        "2: identity.payload.header",
        "must be another header than `identity.headers.x-user-id`",
    );
    check(
        "identity: {payload: {sign: {key_file: ca.pem}}}",
        "2: identity.payload.sign.key_file",
        "has no PEM `PRIVATE KEY`",
    );
    for unfit in ["key.pem", "sign-p384.pem", "sign-rsa1024.pem"] {
        check(
            &format!("identity: {{payload: {{sign: {{key_file: {unfit}}}}}}}"),
            "2: identity.payload.sign.key_file",
            "must have a PKCS #8 key of EC P-256, Ed25519 or RSA from 2048 bits",
        );
    }
    check("identity: {payload: {sign: {key_file: missing.pem}}}", "2: identity.payload.sign.key_file", "cannot read");
    check(
        "identity: {payload: {sign: {key_file: sign-p256.pem, ttl: 25h}}}",
        "2: identity.payload.sign.ttl",
        "must be from 1s to 1d",
    );
    let signed = config("identity: {payload: {sign: {key_file: sign-rsa2048.pem}}}\n").identity.payload.unwrap();
    assert_eq!(signed.signer.unwrap().ttl(), Duration::from_secs(60));
}

#[test]
fn rules() {
    let one = |rule: &str, key: &str, says: &str| {
        check(&format!("rules:\n- {{name: a, {rule}}}"), &format!("3: rules[0]{key}"), says);
    };
    check("rules: [{match: {path: /}}]", "2: rules[0].name", "is missing; it must be text");
    check("rules: [{name: default}]", "2: rules[0].name", "is reserved for requests without a rule");
    check("rules: [{name: a}, {name: a}]", "2: rules[1].name", "another rule has this name");
    one("match: {}", ".match", "is empty; write `path_prefix: /` for every request");
    one("match: {path: /a, path_prefix: /b}", ".match", "must have at most one of");
    one("match: {path: a}", ".match.path", "must be a path that begins with `/`");
    one("match: {path: '/a?b'}", ".match.path", "must be a path without query and fragment");
    one("match: {path: /a//b}", ".match.path", "must be in normal form");
    one("match: {path_prefix: /a/../b}", ".match.path_prefix", "must be in normal form");
    one("match: {path: /%61}", ".match.path", "must be in normal form");
    one(
        "match: {path: '/admin/**'}",
        ".match.path",
        "`**` included; write `path_prefix: /admin` (found \"/admin/**\")",
    );
    one("match: {path: '/users/{id}'}", ".match.path", "write `path_regex: /users/[^/]+`");
    one("match: {path_prefix: '/v/*'}", ".match.path_prefix", "write `path_prefix: /v`");
    one("match: {path_prefix: '/users/:id'}", ".match.path_prefix", "write `path_regex: /users/[^/]+(/.*)?`");
    one("match: {path: '/users/<id>'}", ".match.path", "write `path_regex: /users/[^/]+`");
    one("match: {path_regex: '/admin/*'}", ".match.path_regex", "`/*` repeats the slash; write `/.*`");
    one("match: {path_regex: '/users/:id'}", ".match.path_regex", "`:id` matches nothing but itself");
    for pattern in ["/café", "/\\x{e9}/.*", "/\\p{Greek}+", "/é|/ü"] {
        one(
            &format!("match: {{path_regex: '{pattern}'}}"),
            ".match.path_regex",
            "never matches: a path has no byte beyond",
        );
    }
    one("match: {path_regex: 'admin(/.*)?'}", ".match.path_regex", "begins with `/`; write `/admin(/.*)?`");
    one("match: {path_regex: '/ok|admin'}", ".match.path_regex", "`admin` never matches: a path begins with `/`");
    one("match: {path_regex: '^a$b'}", ".match.path_regex", "leave both out (found \"^a$b\")");
    one("match: {path_regex: '/a\\?b'}", ".match.path_regex", "which has no query and no fragment");
    one("match: {path_regex: '/a b'}", ".match.path_regex", "a path has no white space");
    one("match: {path_regex: '/w/(:id)'}", ".match.path_regex", "`:id` matches nothing but itself; write `[^/]+`");
    one("match: {path_regex: '/z/$id'}", ".match.path_regex", "`$id` matches nothing but itself; write `[^/]+`");
    let warnings = good(&format!("{ISSUER}rules: [{{name: a, match: {{path_regex: '/u/[id]'}}}}]\n")).warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].message.contains("`[id]` matches one of its characters; write `[^/]+`"), "{warnings:?}");
    for pattern in ["/caf(é|e)", "/a/é?", "/[^é]+", "/.*", "/caf%C3%A9"] {
        config(&format!("rules: [{{name: a, match: {{path_regex: '{pattern}'}}}}]\n"));
    }
    one("match: {path_regex: '('}", ".match.path_regex", "must be a regular expression: unclosed group");
    one("match: {path_regex: '/a)|(/b'}", ".match.path_regex", "must be a regular expression: unopened group");
    one("match: {path_regex: '(?:a{1000}){1000}'}", ".match.path_regex", "must be a regular expression: ");
    one("match: {path_regex: ''}", ".match.path_regex", "must not be empty");
    one("match: {hosts: ['shop.test:443']}", ".match.hosts[0]", "must be a host name without scheme, port and path");
    one("match: {hosts: ['*']}", ".match.hosts[0]", "must be a host name");
    one("match: {hosts: []}", ".match.hosts", "must not be empty; leave it out for any host");
    one("match: {methods: [get]}", ".match.methods[0]", "must be an HTTP method in capitals");
    one("match: {methods: [ALL]}", ".match.methods[0]", "is not an HTTP method");
    one("sign_out: {scope: user}", ".sign_out", "only a rule with `access: sign_out` signs out");
    one(
        "access: sign_out, sign_out: {scope: all}",
        ".sign_out.scope",
        "must be `token`, `session` or `user` (found \"all\")",
    );
    one("access: public, require: {scopes: [a]}", ".require", "is never checked on a rule with `access: public`");
    one("require: {scopes: []}", ".require.scopes", "must not be empty");
    one("require: {scopes: ['a b']}", ".require.scopes[0]", "must be one scope");
    one("require: {issuers: [other]}", ".require.issuers[0]", "must be the name of an issuer; there are main");
    one("require: {claims: {role: []}}", ".require.claims.role", "must be a text, a number");
    one("require: {claims: {role: {a: b}}}", ".require.claims.role", "must be a text, a number");
    one("require: {claims: {}}", ".require.claims", "must not be empty");
    one("require: {max_age: 0s}", ".require.max_age", "must be from 1s");
    one("require: {acr: []}", ".require.acr", "must not be empty");
    one("max_staleness: 1ms", ".max_staleness", "must be from 1s to 1d (found \"1ms\")");
    one("api_key: never", ".api_key", "must be `required`, `optional` or `ignored`");
}

#[test]
fn hidden_rules() {
    let two = |first: &str, second: &str, says: &str| {
        check(&format!("rules:\n- {{name: a, {first}}}\n- {{name: b, {second}}}"), "4: rules[1]", says);
    };
    let (unprotected, unreached) = ("is not protected: the earlier rule `a`", "is never reached: the earlier rule `a`");
    two("match: {path_prefix: /}, access: public", "match: {path_prefix: /admin}", unprotected);
    two("match: {path_prefix: /a}, enforce: false", "match: {path: /a/b}", unprotected);
    two("match: {hosts: ['*.a.test']}, access: optional", "match: {path: /x, hosts: [b.a.test]}", unprotected);
    two("match: {path_regex: '/a.*'}, access: public", "match: {path: /ab}", unprotected);
    two("match: {path_regex: '/.*'}, access: public", "match: {path_prefix: /ab}", unprotected);
    two("match: {path_prefix: /a}", "match: {path_prefix: /a}", unreached);
    two("match: {path_prefix: /a/}", "match: {path: /a, methods: [GET]}, access: public", unreached);
    two("match: {methods: [GET, POST]}", "match: {path: /x, methods: [GET]}", unreached);
    two("match: {hosts: ['*.a.test']}", "match: {hosts: ['*.b.a.test']}", unreached);
    two("match: {path_prefix: /Api}", "match: {path: /api/open/}, access: public", unreached);
    two("match: {path: /a, methods: [GET]}", "match: {path: /a, methods: [HEAD]}", unreached);
    for (first, second) in [
        ("match: {path_prefix: /a}, access: public", "match: {path_prefix: /ab}"),
        ("match: {path_prefix: /a, methods: [GET]}, access: public", "match: {path_prefix: /a}"),
        ("match: {path_prefix: /a, hosts: [a.test]}, access: public", "match: {path_prefix: /a}"),
        ("match: {hosts: ['*.a.test']}", "match: {hosts: [a.test, b.a.test]}"),
        ("match: {hosts: ['*.a.test']}", "match: {hosts: ['*.ba.test']}"),
        ("match: {path: /a}, access: public", "match: {path_prefix: /a}"),
        ("match: {path_prefix: /A}, access: public", "match: {path_prefix: /a}"),
        ("match: {path_prefix: /A}", "match: {path_prefix: /a}"),
        ("match: {path_regex: '/a/[0-9]+'}, access: public", "match: {path_prefix: /a}"),
        ("access: public", "match: {path_prefix: /a}"),
    ] {
        config(&format!("rules:\n- {{name: a, {first}}}\n- {{name: b, {second}}}\n"));
    }
}

#[test]
fn keys_of_clients_and_admins() {
    let (hex, other) = ("ab".repeat(32), "cd".repeat(32));
    let one = |key: &str, at: &str, says: &str| {
        check(&format!("api_keys: {{keys: [{{{key}}}]}}"), &format!("2: api_keys.keys[0]{at}"), says);
    };
    one(&format!("sha256: {hex}"), ".id", "is missing; it must be text");
    one(
        "id: a, sha256: abc",
        ".sha256",
        "must be 64 hex digits, as `doorward hash-key` prints them: never write the key itself into this file",
    );
    one(&format!("id: a, sha256: {}", "gg".repeat(32)), ".sha256", "must be 64 hex digits");
    one(
        "id: a, sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ".sha256",
        "is the SHA-256 of an empty text",
    );
    one(
        &format!("id: a, sha256: {hex}, expires: 2027-06-01"),
        ".expires",
        "must be a time such as `2027-06-01T00:00:00Z`",
    );
    one(
        &format!("id: a, sha256: {hex}, domains: ['https://a.test']"),
        ".domains[0]",
        "must be a host name without scheme",
    );
    one(
        &format!("id: a, sha256: {hex}, platforms: []"),
        ".platforms",
        "must not be empty; leave it out for any platform",
    );
    one(&format!("id: \"a\\n\", sha256: {hex}"), ".id", "must be printable ASCII");
    check(
        &format!("api_keys: {{keys: [{{id: a, sha256: {hex}}}, {{id: a, sha256: {other}}}]}}"),
        "2: api_keys.keys[1].id",
        "another key has this id",
    );
    check(
        &format!("api_keys: {{keys: [{{id: a, sha256: {hex}}}, {{id: b, sha256: {}}}]}}", hex.to_uppercase()),
        "2: api_keys.keys[1].sha256",
        "another entry has this key",
    );
    check(
        &format!("admin: {{keys: [{{name: a, sha256: {hex}, may: []}}]}}"),
        "2: admin.keys[0].may",
        "must not be empty",
    );
    check(
        &format!("admin: {{keys: [{{name: a, sha256: {hex}, may: [delete]}}]}}"),
        "2: admin.keys[0].may[0]",
        "must be `revoke`, `register` or `read` (found \"delete\")",
    );
}

#[test]
fn revocation_and_the_rest() {
    check(
        "revocation: {redis: {url: 'http://r.test'}}",
        "2: revocation.redis.url",
        "must be a URL such as `redis://127.0.0.1:6379/0`",
    );
    check("revocation: {redis: {url: 'redis:///0'}}", "2: revocation.redis.url", "must name a host");
    check(
        "revocation: {redis: {url: 'redis://r.test/zero'}}",
        "2: revocation.redis.url",
        "must end with the number of a database",
    );
    check(
        "revocation: {redis: {url: 'redis://:hush@r.test', password: x}}",
        "2: revocation.redis.url",
        "must not contain a password beside",
    );
    for (url, message) in [
        ("redis-sentinel://r.test:1", "add ?sentinelServiceName=NAME"),
        ("redis-cluster://r.test:1?node=bad", "bad"),
        ("redis://r.test?db=4", "its query may name nothing"),
    ] {
        check(&format!("revocation: {{redis: {{url: '{url}'}}}}"), "2: revocation.redis.url", message);
    }
    check("revocation: {redis: {ca_file: ca.pem}}", "2: revocation.redis.ca_file", "needs TLS: use `rediss://`");
    for (keys, message) in [
        ("{jwks_url: 'https://k.test', ca_file: none.pem}", "cannot read "),
        ("{jwks_url: 'https://k.test', ca_file: key.pem}", "has no PEM `CERTIFICATE`"),
        ("{jwks_file: keys.json, ca_file: key.pem}", "needs `jwks_url` or `discovery: true`"),
    ] {
        check_issuer(&[("keys", keys)], "6: issuers[0].keys.ca_file", message);
    }
    for more in ["username: ann, password: x", "username: ann"] {
        config(&format!("revocation: {{redis: {{url: 'redis+unix:///run/redis.sock?db=4', {more}}}}}\n"));
    }
    check(
        "revocation: {redis: {password: x, password_file: password}}",
        "2: revocation.redis.password_file",
        "must not be written beside `password`",
    );
    check("revocation: {redis: {password_file: missing}}", "2: revocation.redis.password_file", "cannot read ");
    check(
        "revocation: {redis: {key_prefix: 'a{b}'}}",
        "2: revocation.redis.key_prefix",
        "must be at most 64 printable",
    );
    check(
        "revocation: {redis: {adopt: 'blacklist:jti'}}",
        "2: revocation.redis.adopt",
        "must be the name of a key with `{jti}`, `{token}` or `{token_sha256}` in it once",
    );
    for odd in ["'{jti}{jti}'", "'{jti}:{token}'", "''", "'{JTI}'"] {
        check(&format!("revocation: {{redis: {{adopt: {odd}}}}}"), "2: revocation.redis.adopt", "in it once");
    }
    check("revocation: {redis: {adopt: {set: ''}}}", "2: revocation.redis.adopt.set", "must be the name of a key");
    for fine in
        ["'{jti}'", "'{bl}:{jti}'", "'black list:{jti} x'", "'bl:{token}'", "'bl:{token_sha256}'", "{set: revoked}"]
    {
        config(&format!("revocation: {{redis: {{adopt: {fine}}}}}\n"));
    }
    for (relay, at, message) in [
        ("[nowhere]", "[0]", "must be a URL such as"),
        ("['redis://:s3cret@h', {url: 'redis://h'}]", "[1].url", "must not be listed twice"),
        ("['redis://h', 'redis://h:6379']", "[1]", "must not be listed twice"),
        ("['redis://h', 'redis://H./0']", "[1]", "must not be listed twice"),
        ("['redis://h', 'rediss://ann:s3cret@h:6379/0']", "[1]", "must not be listed twice"),
        ("['redis-cluster://a:1?node=b:2', 'redis-cluster://b:2?node=a:1']", "[1]", "must not be listed twice"),
        ("['redis+unix:///r.sock', 'redis+unix://ann:s3cret@h/r.sock?db=0']", "[1]", "must not be listed twice"),
        ("['redis://127.0.0.1:6379/0']", "[0]", "must be the Redis of another region"),
        ("['redis://127.0.0.1']", "[0]", "must be the Redis of another region"),
        ("[a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q]", "", "must have at most 16 items (found 17)"),
        ("[{url: 'http://h'}]", "[0].url", "must be a URL such as"),
        ("[{username: ann}]", "[0].url", "is missing"),
        ("[{url: 'redis://h', ca_file: ca.pem}]", "[0].ca_file", "needs TLS"),
        ("[{url: 'redis://:s3cret@h', password: x}]", "[0].url", "must not contain a password beside"),
        ("[{url: 'redis://h', password_file: missing}]", "[0].password_file", "cannot read "),
        ("[{url: 'redis://h', key_prefix: 'a*'}]", "[0].key_prefix", "must be at most 64"),
    ] {
        check(
            &format!("revocation: {{redis: {{relay: {relay}}}}}"),
            &format!("2: revocation.redis.relay{at}"),
            message,
        );
    }
    check(
        "revocation: {redis: {min_replicas: -1}}",
        "2: revocation.redis.min_replicas",
        "must be a whole number from 0 to 16 (found -1)",
    );
    check(
        "revocation: {store: embedded, embedded: {path: /no/such/folder/x}}",
        "2: revocation.embedded.path",
        "must be a file in an existing folder",
    );
    check("revocation: {max_staleness: 2days}", "2: revocation.max_staleness", "must be from 1s to 1d");
    check("errors: {realm: 'a\"b'}", "2: errors.realm", "must be 1 to 128 bytes of printable ASCII");
    check(
        "telemetry: {log: {level: loud}}",
        "2: telemetry.log.level",
        "must be `error`, `warn`, `info`, `debug` or `trace`",
    );
    for endpoint in ["collector", "'grpc://collector:4317'", "'collector:4317'"] {
        let right = "must be a http or https URL such as `http://otel-collector:4317`";
        check(&format!("telemetry: {{otlp: {{endpoint: {endpoint}}}}}"), "2: telemetry.otlp.endpoint", right);
    }
    check("limits: {drain_delay: soon}", "2: limits.drain_delay", "must be a duration");
    check("limits: {drain: 2h}", "2: limits.drain", "must be from 0s to 1h");
    let transmitter =
        |more: &str| format!("signals:\n  transmitters:\n  - {{issuer: https://i.test, audience: doorward, {more}}}");
    check(
        &transmitter("keys: {discovery: true}, target_issuer: other"),
        "4: signals.transmitters[0].target_issuer",
        "must be the name of an issuer; there are main",
    );
    check(
        &transmitter("keys: {secret_file: secret-64}, target_issuer: main"),
        "4: signals.transmitters[0].keys.secret_file",
        "must not be used here",
    );
    check(
        &transmitter("keys: {discovery: true}, target_issuer: main, poll: {url: 'http://i.test'}"),
        "4: signals.transmitters[0].poll.url",
        "must be https",
    );
    let usual = |more: &str| transmitter(&format!("keys: {{discovery: true}}, target_issuer: main, {more}"));
    check(&usual("poll: {}"), "4: signals.transmitters[0].poll.url", "is missing");
    check(&usual("push: {}"), "4: signals.transmitters[0].push.token_file", "is missing");
    check(&usual("stream: {token: x}"), "4: signals.transmitters[0].stream.push_url", "is missing");
    check(
        &usual("stream: {push_url: 'https://a.test/signals/events'}"),
        "4: signals.transmitters[0].stream.token_file",
        "is missing",
    );
    let client = |more: &str| usual(&format!("poll: {{url: 'https://i.test'}}, client_credentials: {{{more}}}"));
    let at = |key: &str| format!("4: signals.transmitters[0].client_credentials{key}");
    check(&client("client_secret: x"), &at(".client_id"), "is missing");
    check(&client("client_id: x"), &at(".client_secret_file"), "is missing");
    let token_url = "client_id: x, client_secret: y, token_url: 'http://i.test/token'";
    check(&client(token_url), &at(".token_url"), "must be https");
    check(&client("client_id: x, client_secret: y, scopes: ['a b']"), &at(".scopes[0]"), "must be a scope");
    check(
        &client("client_id: x, client_secret: y, auth_method: private_key_jwt"),
        &at(".auth_method"),
        "must be `client_secret_basic` or `client_secret_post`",
    );
    check(
        &client("client_id: x, client_secret: y}, stream: {token: z"),
        "4: signals.transmitters[0].stream.token",
        "must not be written beside",
    );
    check(
        &usual("poll: {}, stream: {token: x, silent_after: 0s}"),
        "4: signals.transmitters[0].stream.silent_after",
        "must be from",
    );
    check("listen: {cors_origins: ['https://a.test/']}", "2: listen.cors_origins[0]", "must be scheme and host");
    check("listen: {cors_origins: ['*']}", "2: listen.cors_origins[0]", "must be scheme and host");
    check("telemetry: {replay_alarm: {url: 'http://a.test'}}", "2: telemetry.replay_alarm.url", "must be https");
    check("telemetry: {replay_alarm: {}}", "2: telemetry.replay_alarm.url", "is missing");
}
