//! Faults of the other sections, with place and message.

use super::faults::check;
use super::issuers::check_issuer;
use super::*;

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
