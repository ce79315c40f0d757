//! Faults of tokens, identity and rules.

use super::faults::check;
use super::*;

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
    for unusable in ["key.pem", "sign-p384.pem", "sign-rsa1024.pem"] {
        check(
            &format!("identity: {{payload: {{sign: {{key_file: {unusable}}}}}}}"),
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
