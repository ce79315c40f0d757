//! The commands, as they are typed.

use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::TempDir;
use crate::support::doorward::run;
use crate::support::tokens::Tokens;

#[test]
fn validate_names_every_fault_with_its_place() {
    let dir = TempDir::new();
    let file = dir.path().join("bad.yaml");
    std::fs::write(&file, "listen: {check: nowhere}\nissuers:\n  - name: Main!\n    issuer: https://a.test\n    audiences: [a]\n    keys: {jwks_file: none.json}\n    algorithms: [none]\nrules:\n  - {name: a, acces: public}\n").unwrap();
    let (code, _, error) = run(&["validate", "--config", file.to_str().unwrap()], "");
    assert_eq!(code, 2);
    for (line, place) in [
        (1, "listen.check"),
        (3, "issuers[0].name"),
        (6, "issuers[0].keys.jwks_file"),
        (7, "issuers[0].algorithms"),
        (9, "acces"),
    ] {
        assert!(
            error.lines().any(|text| text.contains(&format!("bad.yaml:{line}")) && text.contains(place)),
            "line {line}, {place} in\n{error}"
        );
    }
    let tokens = Tokens::new();
    std::fs::write(&file, tokens.config("")).unwrap();
    let (code, _, error) = run(&["validate", "--config", file.to_str().unwrap()], "");
    assert_eq!(code, 0, "{error}");
    let (code, schema, _) = run(&["validate", "--schema"], "");
    let schema: Value = serde_json::from_str(&schema).unwrap();
    assert_eq!(code, 0);
    assert!(schema["properties"]["issuers"].is_object());
    assert_eq!(run(&["validate", "--config", "/nowhere/doorward.yaml"], "").0, 2);
    assert_eq!(run(&["no-such-command"], "").0, 2);
}

#[test]
fn a_development_token_is_good_where_its_keys_are_trusted() {
    let dir = TempDir::new();
    let keys = dir.path().join("keys");
    let mint = |more: &[&str]| {
        let mut args =
            vec!["dev-token", "--dir", keys.to_str().unwrap(), "--user", "alice", "--email", "alice@example.com"];
        args.extend(more);
        run(&args, "")
    };
    let (code, token, error) = mint(&["--ttl", "15m", "--claim", "role=admin", "--claim", "level=3"]);
    assert_eq!(code, 0, "{error}");
    let file = dir.path().join("doorward.yaml");
    let config = format!(
        "issuers:\n  - {{name: dev, issuer: \"{}\", audiences: [demo], keys: {{jwks_file: keys/dev.jwks.json}}}}\nrules:\n  - {{name: admin, match: {{path_prefix: /admin}}, require: {{claims: {{role: [admin], level: [3]}}}}}}\n",
        doorward::dev::ISSUER
    );
    std::fs::write(&file, config).unwrap();
    let config = file.to_str().unwrap();
    let (code, text, error) = run(&["explain", "--config", config, "--path", "/admin", "--json", "-"], &token);
    assert_eq!(code, 0, "{error}");
    let explained: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        (&explained["decision"], &explained["rule"], &explained["verified"]["user_id"]),
        (&"allowed".into(), &"admin".into(), &"alice".into())
    );
    assert_eq!(explained["answer"]["set"]["x-user-email"], "alice@example.com");
    let signature = token.trim().rsplit_once('.').unwrap().1;
    let (code, text, _) = run(&["explain", "--config", config, token.trim()], "");
    assert!(code == 0 && text.contains("allowed") && !text.contains(signature));
    let (_, text, _) = run(&["explain", "--config", config, "--json"], "");
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["reason"], "missing_token");
    let (_, expired, _) = mint(&["--ttl", "0s", "--claim", "exp=1000", "--claim", "iat=900"]);
    let (_, text, _) = run(&["explain", "--config", config, "--json", "-"], &expired);
    assert_eq!(serde_json::from_str::<Value>(&text).unwrap()["reason"], "expired");
    assert_eq!(std::fs::metadata(keys.join("dev.key.pem")).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, _, error) = mint(&["--claim", "novalue"]);
    assert!(code == 1 && error.contains("NAME=VALUE"));
}

#[test]
fn keys_are_hashed_as_the_configuration_wants_them() {
    let (code, out, _) = run(&["hash-key"], "0123456789abcdef\n");
    assert_eq!((code, out.trim()), (0, "sha256: 9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f"));
    let (code, out, error) = run(&["hash-key", "--new"], "");
    assert!(code == 0 && out.starts_with("sha256: ") && error.starts_with("key: "));
    assert_eq!(run(&["hash-key"], "short").0, 1);
}

#[test]
fn explain_presents_the_token_where_it_is_looked_for_and_shows_no_cookie() {
    let (dir, tokens) = (TempDir::new(), Tokens::new());
    let file = dir.path().join("doorward.yaml");
    let token = tokens.of("alice");
    let signature = token.rsplit('.').next().unwrap();
    for (from, carried) in [("{cookie: session}, {cookie: old}", true), ("{query: token}", false)] {
        let more = format!("token: {{from: [{from}], forward: false}}\n");
        std::fs::write(&file, tokens.config(&more)).unwrap();
        let cookies = format!("cookie: old={token}; refresh=canary-cookie");
        let args = ["explain", "--json", "--config", file.to_str().unwrap(), "--header", &cookies, "-"];
        let (code, out, error) = run(&args, &token);
        assert_eq!(code, 0, "{error}");
        let explained: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&explained["decision"], &explained["verified"]["user_id"]), (&"allowed".into(), &"alice".into()));
        assert_eq!(explained["answer"]["set"]["cookie"].is_string(), carried, "{out}");
        assert!(!out.contains("canary-cookie") && !out.contains(signature), "{out}");
    }
}

#[test]
fn explain_says_what_it_did_not_ask() {
    let (dir, tokens) = (TempDir::new(), Tokens::new());
    let file = dir.path().join("doorward.yaml");
    let asking = ", introspection: {url: \"http://127.0.0.1:9/\", client_id: a, client_secret: b, when: always}}\n";
    std::fs::write(&file, tokens.config("").trim_end().strip_suffix('}').unwrap().to_owned() + asking).unwrap();
    let args = ["explain", "--json", "--config", file.to_str().unwrap(), "--rule", "nobody", "-"];
    let explain = |args: &[&str]| serde_json::from_str::<Value>(&run(args, &tokens.of("alice")).1).unwrap();
    let unknown = explain(&args);
    assert_eq!((&unknown["rule"], &unknown["reason"]), (&"no rule is named `nobody`".into(), &"bad_request".into()));
    let undecided = explain(&[&args[..4], &args[6..]].concat());
    assert_eq!(undecided["decision"], "undecided", "{undecided}");
}
