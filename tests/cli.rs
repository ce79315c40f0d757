//! The commands, as they are typed.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::support::TempDir;
use crate::support::doorward::{run, run_with};
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
    assert!(code == 2 && error.contains("NAME=VALUE"), "{code} {error}");
}

#[test]
fn keys_are_hashed_as_the_configuration_wants_them() {
    let (code, out, _) = run(&["hash-key"], "0123456789abcdef\n");
    assert_eq!((code, out.trim()), (0, "sha256: 9f9f5111f7b27a781f1f1ddde5ebc2dd2b796bfc7365c9c28b548e564176929f"));
    let (dir, tokens) = (TempDir::new(), Tokens::new());
    let file = dir.path().join("doorward.yaml");
    for (args, section) in [
        (&["hash-key", "--new", "--name", "on-call"][..], "admin:\n  keys:\n"),
        (&["hash-key", "--new", "--of", "api", "--name", "web-shop"], "api_keys:\n  keys:\n"),
    ] {
        let (code, entry, error) = run(args, "");
        let key = error.strip_prefix("key: ").unwrap().trim();
        assert_eq!((code, key.len()), (0, 43), "{error}");
        std::fs::write(&file, tokens.config(&format!("{section}    {entry}"))).unwrap();
        let (code, _, error) = run(&["validate", "--config", file.to_str().unwrap()], "");
        assert_eq!(code, 0, "{entry}: {error}");
        let digest = run(&["hash-key"], key).1;
        assert!(entry.contains(digest.trim()), "{entry} {digest}");
    }
    assert_eq!(run(&["hash-key", "--new", "--name", "a b"], "").0, 2);
    assert_eq!(run(&["hash-key"], "short").0, 1);
    assert_eq!(run(&["hash-key"], &format!("{}\n", "k".repeat(4096))).0, 0);
    let (code, out, error) = run(&["hash-key"], &"k".repeat(4097));
    assert!(code == 1 && out.is_empty() && error.contains("more than 4096 bytes"), "{code} {out} {error}");
}

#[test]
fn an_answer_that_cannot_be_written_is_a_failure_and_no_panic() {
    let dir = TempDir::new();
    let (file, tokens) = (dir.path().join("doorward.yaml"), Tokens::new());
    std::fs::write(&file, tokens.config("")).unwrap();
    let (config, keys) = (file.to_str().unwrap(), dir.path().join("keys"));
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    for args in [
        &["validate", "--config", config][..],
        &["explain", "--config", config],
        &["explain", "--config", config, "--json"],
        &["lint", "envoy/edge-uds.yaml"],
        &["lint", "envoy/edge-uds.yaml", "--json"],
        &["dev-token", "--user", "a", "--dir", keys.to_str().unwrap()],
        &["hash-key", "--new"],
    ] {
        let command = || {
            let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_doorward"));
            command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
            command
        };
        let written = command().output().unwrap();
        assert!(written.status.code() == Some(0), "{args:?} {written:?}");
        let unwritten = command().stdout(full()).output().unwrap();
        assert_eq!(unwritten.status.code(), Some(1), "{args:?} {unwritten:?}");
        assert!(!String::from_utf8_lossy(&unwritten.stderr).contains("panicked"), "{args:?} {unwritten:?}");
    }
    let unwritten = std::process::Command::new(env!("CARGO_BIN_EXE_doorward"))
        .args(["explain", "--config", "/nowhere"])
        .stderr(full())
        .status();
    assert_eq!(unwritten.unwrap().code(), Some(2));
}

#[test]
fn no_credential_in_a_server_is_shown() {
    let status = |server: &str| {
        run_with(&[("DOORWARD_ADMIN_KEY", "0123456789abcdef\n"), ("DOORWARD_SERVER", server)], &["status"], "")
    };
    for (server, expected) in [
        ("http://u:HUNTER2@127.0.0.1:1/", 1),
        ("http://127.0.0.1:1/?token=HUNTER2", 1),
        ("http://127.0.0.1:1/#HUNTER2", 1),
        ("u:HUNTER2@127.0.0.1:1", 2),
        ("HUNTER2@h", 2),
        ("http://u:HUN?TER2@h", 2),
    ] {
        let (code, out, error) = status(server);
        assert_eq!(code, expected, "{server}: {error}");
        assert!(!out.contains("HUN") && !error.contains("HUN"), "{server}: {error}");
    }
    let (_, help, _) = run_with(&[("DOORWARD_SERVER", "http://u:HUNTER2@h")], &["status", "--help"], "");
    assert!(help.contains("DOORWARD_SERVER") && !help.contains("HUN"), "{help}");
    let (code, _, error) = run_with(&[("DOORWARD_ADMIN_KEY", "two\nlines")], &["status"], "");
    assert!(code == 2 && error.contains("DOORWARD_ADMIN_KEY must be"), "{error}");
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
fn explain_names_skipped_lookups() {
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

#[test]
fn a_key_in_plain_text_is_a_fault_with_its_remedy() {
    let (dir, tokens) = (TempDir::new(), Tokens::new());
    let file = dir.path().join("doorward.yaml");
    for entry in [
        "admin: {keys: [{name: a, key: canary-0123456789, may: [read]}]}",
        "api_keys: {keys: [{id: a, key: canary-0123456789}]}",
    ] {
        std::fs::write(&file, tokens.config(&format!("{entry}\n"))).unwrap();
        let (code, _, error) = run(&["validate", "--config", file.to_str().unwrap()], "");
        assert_eq!(code, 2);
        assert!(error.contains("write `sha256: DIGEST` instead") && error.contains("doorward hash-key"), "{error}");
        assert!(!error.contains("canary"), "{error}");
    }
    let plain = "admin: {keys: [{name: a, sha256: canary-0123456789, may: [read]}]}\n";
    std::fs::write(&file, tokens.config(plain)).unwrap();
    let (_, _, error) = run(&["validate", "--config", file.to_str().unwrap()], "");
    assert!(error.contains("never write the key itself into this file") && !error.contains("canary"), "{error}");
}

#[test]
fn the_configuration_to_begin_with_is_valid() {
    let dir = TempDir::new();
    let file = dir.path().join("doorward.yaml");
    let (name, issuer) = (file.to_str().unwrap(), "https://login.test/a");
    let args = ["init", name, "--issuer", issuer, "--audience", "my-shop", "--jwks-url", "https://login.test/jwks"];
    let (code, out, error) = run(&args, "");
    assert!(code == 0 && out.contains(&format!("doorward validate --config {name}")), "{out} {error}");
    let (code, _, error) = run(&["validate", "--config", name], "");
    assert_eq!(code, 0, "{error}");
    let (_, explained, _) = run(&["explain", "--config", name, "--json", "--path", "/healthz"], "");
    assert!(explained.contains("\"allowed\"") && explained.contains("https://login.test/jwks"), "{explained}");

    let written = std::fs::read_to_string(&file).unwrap();
    assert!(written.contains("audiences: [\"my-shop\"]") && written.contains(issuer), "{written}");
    let (code, _, error) = run(&["init", name], "");
    assert!(code == 2 && error.contains("is left unchanged"), "{error}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), written);

    let schema = written.lines().next().unwrap().strip_prefix("# yaml-language-server: $schema=file://");
    assert!(schema.is_none_or(|schema| std::path::Path::new(schema).exists()), "a schema that is there: {written}");

    let (code, example, _) = run(&["init", "-"], "");
    std::fs::write(&file, example).unwrap();
    assert_eq!((code, run(&["validate", "--config", name], "").0), (0, 0), "as it is");
    assert_eq!(run(&["init", "-", "--issuer", "https://a\"}\nb"], "").0, 2, "nothing of YAML's own");
    assert_eq!(run(&["init", "/nowhere/doorward.yaml"], "").0, 1);
}

#[test]
fn shells_complete_and_manuals_are_written() {
    for (shell, word) in [("bash", "complete -F"), ("zsh", "#compdef doorward"), ("fish", "complete -c doorward")] {
        let (code, script, error) = run(&["completions", shell], "");
        assert!(code == 0 && script.contains(word) && script.contains("hash-key"), "{shell}: {error}");
        let checked = std::process::Command::new("bash").args(["-n", "-c", &script]).status().unwrap();
        assert!(shell != "bash" || checked.success());
    }
    assert_eq!(run(&["completions", "no-such-shell"], "").0, 2);
    let dir = TempDir::new();
    let pages = dir.path().join("man1");
    assert_eq!(run(&["man", "--dir", pages.to_str().unwrap()], "").0, 0);
    let names = std::fs::read_dir(&pages).unwrap().map(|page| page.unwrap().file_name().into_string().unwrap());
    let names: Vec<_> = names.collect();
    for name in ["doorward.1", "doorward-serve.1", "doorward-revoke.1", "doorward-list.1"] {
        assert!(names.iter().any(|known| known == name), "{name} in {names:?}");
    }
    let page = std::fs::read_to_string(pages.join("doorward-explain.1")).unwrap();
    assert!(page.contains(".TH") && page.contains("Exit codes"), "{page}");
    let (code, page, _) = run(&["man"], "");
    assert!(code == 0 && page.contains("doorward\\-hash\\-key"), "{page}");
}

#[test]
fn the_version_names_commit_date_and_compiler() {
    let (code, version, _) = run(&["--version"], "");
    assert!(code == 0 && version.starts_with(concat!("doorward ", env!("CARGO_PKG_VERSION"), " (")), "{version}");
    assert!(version.contains("rustc 1."), "{version}");

    // The build script itself: with a packager's variables, and without git.
    let dir = TempDir::new();
    let script = dir.path().join("build");
    let compiled = std::process::Command::new("rustc")
        .args(["--edition", "2024", "-o"])
        .arg(&script)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/build.rs"))
        .status();
    assert!(compiled.unwrap().success());
    let said = |env: &[(&str, &str)]| {
        let mut command = std::process::Command::new(&script);
        command.env_clear().current_dir(dir.path()).env("CARGO_PKG_VERSION", "9.8.7").env("PROFILE", "release");
        let said = command.envs(env.iter().copied()).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        said.lines().find_map(|line| line.strip_prefix("cargo:rustc-env=DOORWARD_VERSION=")).unwrap().to_owned()
    };
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let given = [("DOORWARD_COMMIT", commit), ("DOORWARD_COMMIT_DATE", "2026-01-02")];
    assert_eq!(said(&given), "9.8.7 (0123456789ab, 2026-01-02)");
    assert_eq!(said(&[]), "9.8.7 ()", "neither git nor a compiler is there");
    assert_eq!(said(&[("DOORWARD_COMMIT", "a\ncargo:rustc-env=X=y")]), "9.8.7 ()");
}

#[test]
fn explain_shows_each_check_with_what_was_expected_and_found() {
    let (dir, tokens) = (TempDir::new(), Tokens::new());
    let file = dir.path().join("doorward.yaml");
    let rules =
        "rules:\n  - {name: admin, match: {path: /admin}, require: {scopes: [admin], claims: {role: [owner]}}}\n";
    std::fs::write(&file, tokens.config(rules)).unwrap();
    let config = file.to_str().unwrap();
    let failed = |token: &str, more: &[&str]| {
        let args = [&["explain", "--json", "--config", config][..], more, &["-"]].concat();
        let (code, out, error) = run(&args, token);
        assert_eq!(code, 0, "{error}");
        let explained: Value = serde_json::from_str(&out).unwrap();
        let checks = explained["checks"].as_array().unwrap().clone();
        let failed: Vec<_> = checks.iter().filter(|check| check["passed"] == false).cloned().collect();
        assert!(failed.len() <= 1, "{failed:?}");
        let passed = checks.iter().filter(|check| check["passed"] == true).count();
        (failed.first().cloned().unwrap_or_default(), passed)
    };
    let admin = &["--path", "/admin"][..];
    for (claims, more, check, expected, got) in [
        (json!({"aud": "other"}), &[][..], "audience", json!([doorward::dev::AUDIENCE]), json!("other")),
        (
            json!({"iss": "https://else.test"}),
            &[],
            "issuer",
            json!([doorward::dev::ISSUER]),
            json!("https://else.test"),
        ),
        (json!({"scope": "read"}), admin, "scopes", json!(["admin"]), json!(["read"])),
        (
            json!({"scope": "admin", "role": "guest"}),
            admin,
            "required claims",
            json!({"role": ["owner"]}),
            json!({"role": "guest"}),
        ),
        (json!({}), &["--rule", "nobody"], "rule", json!(["admin"]), json!("nobody")),
    ] {
        let (failed, _) = failed(&tokens.with(claims), more);
        assert_eq!(
            (&failed["check"], &failed["expected"], &failed["got"]),
            (&json!(check), &expected, &got),
            "{failed}"
        );
    }
    let (none, passed) = failed(&tokens.of("alice"), &[]);
    assert_eq!((none, passed), (Value::Null, 10), "of rule, token, issuer … claims");

    let wrong = tokens.with(json!({"aud": "other"}));
    let (code, text, _) = run(&["explain", "--config", config, "-"], &wrong);
    assert_eq!(code, 0, "explained");
    let line = |name: &str| {
        text.lines()
            .find(|line| line[line.chars().next().unwrap_or('x').len_utf8()..].trim_start().starts_with(name))
            .unwrap_or_default()
            .to_owned()
    };
    assert!(
        line("audience").starts_with('✗') && line("audience").ends_with(r#"expected ["demo"], got "other""#),
        "{text}"
    );
    assert!(line("signature").starts_with('✓') && line("revocation").starts_with('·'), "{text}");
    for (token, expect, code) in
        [(&wrong, "deny", 0), (&wrong, "allow", 1), (&tokens.of("alice"), "allow", 0), (&tokens.of("alice"), "deny", 1)]
    {
        let (done, _, error) = run(&["explain", "--config", config, "--expect", expect, "-"], token);
        assert_eq!((done, error.is_empty()), (code, code == 0), "{expect}: {error}");
    }
    assert_eq!(run(&["explain", "--config", config, "--expect", "perhaps", "-"], &wrong).0, 2);
}

/// A check in CI must not pass because nothing could be decided.
#[test]
fn explain_expects_a_decision_and_not_a_failure() {
    let (dir, tokens) = (TempDir::new(), Tokens::new());
    let file = dir.path().join("doorward.yaml");
    let config = file.to_str().unwrap();
    let alice = tokens.of("alice");
    let expect = |decision: &str, more: &[&str]| {
        let (code, out, error) =
            run(&[&["explain", "--config", config, "--expect", decision][..], more, &["-"]].concat(), &alice);
        (code, out, error)
    };
    std::fs::write(&file, tokens.config("rules: [{name: admin, match: {path: /admin}, access: public}]\n")).unwrap();
    assert_eq!(expect("allow", &["--rule", "admin"]).0, 0);
    let (code, _, error) = expect("deny", &["--rule", "admn"]);
    assert!(code == 1 && error.contains("bad_request"), "{error}");
    // This port has no listener.
    let closed = crate::ledger::support::free_port();
    let keys = format!("jwks_url: \"http://127.0.0.1:{closed}/jwks\"");
    std::fs::write(&file, tokens.config("").replace(&format!("jwks: {}", tokens.issuer.jwks()), &keys)).unwrap();
    for decision in ["deny", "allow"] {
        let (code, out, error) = expect(decision, &[]);
        assert!(code == 1 && error.contains("keys_unavailable"), "{error}");
        assert!(out.contains(r#"expected "the keys of dev", got "not loaded""#), "{out}");
    }
}

#[test]
fn explain_shows_the_fault_of_an_api_key_and_never_the_key() {
    let (dir, tokens) = (TempDir::new(), Tokens::new());
    let file = dir.path().join("doorward.yaml");
    let (_, digest, _) = run(&["hash-key"], "canary-0123456789abcdef\n");
    let digest = digest.split("sha256: ").nth(1).unwrap().split([',', '}', '\n']).next().unwrap().trim();
    let keys = format!(
        "api_keys: {{default: required, keys: [{{id: web, sha256: {digest}, platforms: [web], domains: [\"*.shop.test\"]}}]}}\n"
    );
    std::fs::write(&file, tokens.config(&keys)).unwrap();
    let (key, web) = ("x-api-key: canary-0123456789abcdef", "x-client-platform: web");
    for (headers, expected, got) in [
        (&[][..], json!("a key in `x-api-key`"), json!("none")),
        (&["x-api-key: canary-other"], json!("a configured key"), json!("another one, or several")),
        (&[key, "x-client-platform: ios"], json!({"x-client-platform": ["web"]}), json!({"x-client-platform": "ios"})),
        (
            &[key, web, "origin: https://shop.evil"],
            json!({"origin or referer": ["*.shop.test"]}),
            json!({"origin": "https://shop.evil", "referer": null}),
        ),
    ] {
        let headers: Vec<_> = headers.iter().flat_map(|header| ["--header", header]).collect();
        let args = [&["explain", "--json", "--config", file.to_str().unwrap()][..], &headers, &["-"]].concat();
        let (_, out, error) = run(&args, &tokens.of("alice"));
        assert!(!out.contains("canary"), "{out}");
        let explained: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{error}"));
        let checks = explained["checks"].as_array().unwrap();
        let failed = checks.iter().find(|check| check["passed"] == false).unwrap();
        assert_eq!((&failed["check"], &failed["expected"], &failed["got"]), (&json!("api key"), &expected, &got));
    }
}
