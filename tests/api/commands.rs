//! `doorward revoke` and `doorward status`.

use serde_json::{Value, json};

use super::{OPERATOR, READER, admin_keys, reason};
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
    assert!(out.starts_with("revoked token j1 of dev, until "), "{out}");
    assert_eq!(reason(&checks, &token).await, "revoked");
    assert_eq!(revoke(&["--token", &token, "--issuer", "dev"], "").0, 0);

    let token = tokens.with(json!({"jti": "j2"}));
    let expires = (now() + 600).to_string();
    let (code, out, _) = revoke(&["--token-id", "j2", "--expires", &expires, "--json"], "");
    assert_eq!((code, &serde_json::from_str::<Value>(&out).unwrap()["id"]), (0, &json!("j2")));
    assert_eq!(reason(&checks, &token).await, "revoked");
    let (code, out, _) = revoke(&["--token-id", "j3", "--expires", "2020-01-01T00:00:00Z"], "");
    assert!(code == 0 && out.contains("nothing to revoke"), "{out}");

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
    assert_eq!(revoke(&["--all", "--wait", "all"], "").0, 0);
    assert_eq!(reason(&checks, &tokens.of("carol")).await, "revoked");

    let (code, out, _) = run_with(&as_operator, &["status"], "");
    assert!(code == 0 && out.contains("POSITION") && out.contains("following"), "{out}");
    let (code, out, _) = run_with(&as_operator, &["status", "--json"], "");
    assert!(code == 0 && serde_json::from_str::<Value>(&out).unwrap()["instances"].is_array());
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
    assert!(code == 1 && error.contains("may not"), "{error}");
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
    // As a proxy it answers from what it is itself: ready.
    let other = Doorward::start(&Tokens::new().config(&admin_keys())).await;
    let proxy = format!("http://{}", other.http);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
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
