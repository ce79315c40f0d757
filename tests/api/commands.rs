//! `doorward revoke`, `doorward list` and `doorward status`.

use serde_json::{Value, json};

use super::{OPERATOR, READER, REVOKER, admin_keys, reason};
use crate::ledger::support::RedisServer;
use crate::support::TempDir;
use crate::support::doorward::{Doorward, run, run_with};
use crate::support::grpc::Checks;
use crate::support::tokens::{Tokens, now};

#[tokio::test(flavor = "multi_thread")]
async fn operators_revoke_from_the_command_line() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(&admin_keys())).await;
    let checks = Checks::connect(&doorward.check).await;
    let server = format!("http://{}", doorward.http);
    let as_operator = [("DOORWARD_ADMIN_KEY", OPERATOR), ("DOORWARD_SERVER", server.as_str())];
    let revoke = |args: &[&str], stdin: &str| run_with(&as_operator, &[&["revoke"], args].concat(), stdin);

    let token = tokens.with(json!({"jti": "j1"}));
    let (code, out, error) = revoke(&["--token", "-", "--reason", "lost"], &format!("{token}\n"));
    assert_eq!((code, error.as_str()), (0, ""));
    assert!(out.starts_with("refused from now on: the token j1 of dev; a new sign-in works\n"), "{out}");
    assert_eq!(reason(&checks, &token).await, "revoked");
    assert_eq!(revoke(&["--token", &token, "--issuer", "dev"], "").0, 0);

    let token = tokens.with(json!({"jti": "j2"}));
    let expires = (now() + 600).to_string();
    let (code, out, _) = revoke(&["--token-id", "j2", "--expires", &expires, "--json"], "");
    assert_eq!((code, &serde_json::from_str::<Value>(&out).unwrap()["id"]), (0, &json!("j2")));
    assert_eq!(reason(&checks, &token).await, "revoked");
    let (code, out, _) = revoke(&["--token-id", "j3", "--expires", "2020-01-01T00:00:00Z"], "");
    assert!(code == 0 && out.contains("refused from now on: the token j3 of dev"), "{out}");

    for (flag, id, claims) in [
        ("--session", "s1", json!({"sid": "s1"})),
        ("--user", "bob", json!({"sub": "bob"})),
        ("--client", "c1", json!({"azp": "c1"})),
    ] {
        let token = tokens.with(claims);
        assert_eq!(reason(&checks, &token).await, "ok");
        let (code, _, error) = revoke(&[flag, id], "");
        assert_eq!((code, error.as_str()), (0, ""));
        assert_eq!(reason(&checks, &token).await, "revoked", "{flag}");
    }
    assert_eq!(reason(&checks, &tokens.of("carol")).await, "ok");
    let (code, out, _) = revoke(&["--all", "--wait", "all"], "");
    assert!(code == 0 && out.contains("every token of the issuer dev issued up to "), "{out}");
    assert!(out.contains("confirmed by 1 instance in "), "{out}");
    assert_eq!(reason(&checks, &tokens.of("carol")).await, "revoked");

    let (code, out, _) = run_with(&as_operator, &["status"], "");
    assert!(code == 0 && out.contains("POSITION") && out.contains("following"), "{out}");
    let (code, out, _) = run_with(&as_operator, &["status", "--json"], "");
    assert!(code == 0 && serde_json::from_str::<Value>(&out).unwrap()["instances"].is_array());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_has_author_and_reason_and_keeps_them_over_a_restart() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let in_redis = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n", redis.url());
    let dir = TempDir::new();
    let in_a_file =
        format!("revocation: {{store: embedded, embedded: {{path: {}/revocations}}}}\n", dir.path().display());
    for store in [&in_redis, &in_a_file] {
        let config = tokens.config(&format!("{store}{}", admin_keys()));
        let mut doorward = Doorward::start(&config).await;
        let ask = |doorward: &Doorward, key: &str, args: &[&str]| {
            let server = format!("http://{}", doorward.http);
            run_with(&[("DOORWARD_ADMIN_KEY", key), ("DOORWARD_SERVER", &server)], args, "")
        };
        let reason = "stolen\u{1b}[31m laptop\u{202e}";
        let revoke = ["revoke", "--user", "alice", "--reason", reason, "--json"];
        let (code, out, error) = ask(&doorward, OPERATOR, &revoke);
        assert_eq!(code, 0, "{error}");
        let receipt: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((&receipt["outcome"], &receipt["unconfirmed"]), (&json!("stored"), &Value::Null));
        assert_eq!(ask(&doorward, REVOKER, &["revoke", "--session", "s1"]).0, 0);
        assert_eq!(doorward.post("/logout", &tokens.with(json!({"jti": "j1"}))).await.0, 204);
        for audit in ["\"by\":\"operator\"", "\"reason\":\"stolen�[31m laptop�\""] {
            doorward.logs(audit).await;
        }

        let listed = |doorward: &Doorward, args: &[&str]| {
            let (code, out, error) = ask(doorward, READER, &[&["list", "--json"], args].concat());
            assert_eq!(code, 0, "{error}");
            out.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
        };
        let all = listed(&doorward, &[]);
        assert_eq!(all.len(), 3, "{all:?}");
        let alice = |doorward: &Doorward| {
            let of_alice = listed(doorward, &["--user", "alice"]);
            let [alice] = of_alice.as_slice() else { panic!("{of_alice:?}") };
            assert_eq!(
                (&alice["by"], &alice["reason"]),
                (&json!("operator"), &json!("stolen�[31m laptop�")),
                "{alice}"
            );
            alice.clone()
        };
        let before = alice(&doorward);
        let since = doorward::clock::parse_rfc3339(before["since"].as_str().unwrap()).unwrap();
        assert!((now() - since.as_secs()).abs() < 60, "{before}");
        let session = listed(&doorward, &["--kind", "session", "--issuer", "dev"]);
        assert_eq!((&session[0]["by"], &session[0]["reason"]), (&json!("revoker"), &Value::Null), "{session:?}");
        let token = listed(&doorward, &["--kind", "token"]);
        assert_eq!((&token[0]["origin"], &token[0]["since"]), (&json!("signed_out"), &Value::Null), "{token:?}");

        assert_eq!(doorward.stop().await, Some(0));
        let doorward = Doorward::start(&config).await;
        assert_eq!(alice(&doorward), before, "after a restart");
        let (code, out, _) = ask(&doorward, READER, &["list"]);
        assert!(
            code == 0 && out.contains("REASON") && out.contains("(signed out)") && !out.contains('\u{1b}'),
            "{out}"
        );
        assert!(ask(&doorward, READER, &["list", "--user", "nobody"]).1.contains("no matching revocation"));
        let (code, _, error) = ask(&doorward, REVOKER, &["list"]);
        assert!(code == 1 && error.contains("lacks the permission"), "{error}");
        assert_eq!(ask(&doorward, READER, &["list", "--kind", "tokens"]).0, 2);
        assert_eq!(ask(&doorward, READER, &["list", "--kind", "user", "--user", "a"]).0, 2);
        drop(doorward);
    }
}

/// A terminal shows that the command waits; its output does not contain that line.
#[tokio::test(flavor = "multi_thread")]
async fn a_wait_shows_on_a_terminal_what_is_unconfirmed() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let config =
        tokens.config(&format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n{}", redis.url(), admin_keys()));
    let (here, there) = (Doorward::start(&config).await, Doorward::start(&config).await);
    there.process.signal("STOP");
    let revoke = format!(
        "{} revoke --user alice --wait all --timeout 1s --json --server http://{}",
        env!("CARGO_BIN_EXE_doorward"),
        here.http
    );
    let dir = TempDir::new();
    let typescript = dir.path().join("typescript");
    let status = std::process::Command::new("script")
        .args(["--quiet", "--return", "--command", &revoke])
        .arg(&typescript)
        .env("DOORWARD_ADMIN_KEY", OPERATOR)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    there.process.signal("CONT");
    let shown = std::fs::read_to_string(&typescript).unwrap();
    assert_eq!(status.code(), Some(1), "{shown}");
    assert!(shown.contains("waiting until every instance refuses: ") && shown.contains(" s of at most 1 s"), "{shown}");
    assert!(shown.contains("\"outcome\": \"unconfirmed\"") && shown.contains("unconfirmed: "), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_and_wrong_usage_have_their_codes() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(&admin_keys())).await;
    let server = format!("http://{}", doorward.http);
    let key = |key| [("DOORWARD_ADMIN_KEY", key), ("DOORWARD_SERVER", server.as_str())];
    let user = ["revoke", "--user", "alice"];
    for args in [
        &["revoke"][..],
        &["revoke", "--user", "a", "--all"],
        &["revoke", "--token-id", "j"],
        &["revoke", "--user", "a", "--expires", "1"],
        &["revoke", "--user", "a", "--wait", "some"],
        &["revoke", "--user", "a", "--server", "nowhere"],
        &["revoke", "--user", "a", "--issuer", "unknown"],
        &["revoke", "--token", "not-a-token"],
        &["revoke", "--token-id", "j", "--expires", "soon"],
    ] {
        let (code, out, error) = run_with(&key(OPERATOR), args, "");
        assert!(code == 2 && out.is_empty() && !error.is_empty(), "{args:?}: {code} {error}");
    }
    let (code, _, error) = run(&user, "");
    assert!(code == 2 && error.contains("DOORWARD_ADMIN_KEY"), "{error}");
    let (code, _, error) = run_with(&key(READER), &user, "");
    assert!(code == 1 && error.contains("lacks the permission"), "{error}");
    let (code, _, error) = run_with(&key("wrong-key-0123456789"), &user, "");
    assert!(code == 1 && error.contains("not known") && !error.contains("wrong-key"), "{error}");
    let nobody = format!("http://127.0.0.1:{}", crate::ledger::support::free_port());
    let (code, _, error) = run_with(&key(OPERATOR), &["status", "--server", &nobody], "");
    assert!(code == 1 && error.contains(&nobody), "{error}");
    let (code, out, _) = run(&["revoke", "--help"], "");
    assert!(code == 0 && out.contains("Example:"));
    assert!(run(&["status", "--help"], "").1.contains("Example:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_proxy_answers_for_a_service_that_is_down() {
    // A Doorward used as a proxy would answer with its own state: ready.
    let other = Doorward::start(&Tokens::new().config(&admin_keys())).await;
    let proxy = format!("http://{}", other.http);
    let free = format!("127.0.0.1:{}", crate::ledger::support::free_port());
    let dir = crate::support::TempDir::new();
    let file = dir.path().join("doorward.yaml");
    let listen = format!("listen: {{check: \"127.0.0.1:0\", http: \"{free}\"}}\n");
    std::fs::write(&file, format!("{listen}{}", Tokens::new().config(""))).unwrap();
    for variable in ["HTTP_PROXY", "http_proxy", "ALL_PROXY"] {
        let server = format!("http://{free}");
        let env = [(variable, proxy.as_str()), ("DOORWARD_SERVER", server.as_str()), ("DOORWARD_ADMIN_KEY", OPERATOR)];
        for command in [&["healthcheck", "--config", file.to_str().unwrap()][..], &["status"], &["revoke", "--all"]] {
            let (code, out, error) = run_with(&env, command, "");
            assert_eq!(code, 1, "{variable} {command:?}: {out}{error}");
        }
    }
}
