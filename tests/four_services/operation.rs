//! Operation of Accounts: key rotation, restart, outage, an outage of Doorward, guessed passwords.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

use super::shop::{Shop, Tokens, part};
use super::support::{Program, run};
use crate::api::{OPERATOR, send};
use crate::support::{TempDir, eventually};

/// Two rotations while tokens are used: neither the newest token nor the oldest is refused.
#[tokio::test(flavor = "multi_thread")]
async fn keys_rotate_without_refusals() {
    let Some(shop) = Shop::open("sqlite::memory:", &["--key-lifetime", "5s"]).await else { return };
    let mut session = shop.login("alice", "wonderland").await;
    let mut signed: BTreeMap<String, Vec<Tokens>> = BTreeMap::new();
    while signed.len() < 3 {
        session = shop.refresh(&session).await;
        shop.works("just signed", &session).await;
        let key = part(&session.access, 0)["kid"].as_str().unwrap().to_owned();
        signed.entry(key).or_default().push(session.clone());
        tokio::time::sleep(Duration::from_millis(100)).await; // A pace, not a wait.
    }
    for token in signed.values().flatten() {
        shop.works("signed by a key that was current", token).await;
    }
    // Security events are signed by the same keys.
    let bob = shop.login("bob", "builder").await;
    let change = json!({"login": "bob", "permissions": []});
    shop.ends("permissions changed, by a new key", &bob, "revoked", "/auth/permissions", &session, change).await;
    let log = shop.doorward.log.lock().unwrap().join("\n");
    assert!(!log.contains("unknown_key"), "{log}");
}

/// Doorward asks Accounts for keys, never about a request: without Accounts every session continues for five minutes.
#[tokio::test(flavor = "multi_thread")]
async fn services_go_on_without_accounts_and_sessions_survive_its_restart() {
    let dir = TempDir::new();
    let database = format!("sqlite:{}", dir.path().join("accounts.db").display());
    let Some(mut shop) = Shop::open(&database, &[]).await else { return };
    let session = shop.login("alice", "wonderland").await;
    shop.works("before", &session).await;
    let address = shop.accounts.address.to_string();
    shop.accounts.process.signal("TERM");
    assert!(shop.accounts.process.0.wait().unwrap().success(), "it ends in peace");
    for _ in 0..20 {
        shop.works("without Accounts", &session).await;
    }

    shop.accounts = Program::start(&["accounts", "--listen", &address, "--database", &database]).await;
    let session = shop.refresh(&session).await;
    // Signed by a key that Doorward has not seen: it fetches it, once in each `cooldown`.
    eventually("its key is fetched", || async { shop.call(&session.access).await.status == 200 }).await;
}

/// The change stays stored, and the caller gets an error, because Doorward did not receive it.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_report_to_doorward_is_an_error() {
    let Some(mut shop) = Shop::open("sqlite::memory:", &[]).await else { return };
    let alice = shop.login("alice", "wonderland").await;
    shop.redis.kill();
    shop.doorward.process.0.kill().unwrap();
    shop.doorward.process.0.wait().unwrap();
    // As Envoy would pass it on, had it been allowed.
    let identity = json!({"user_id": "alice", "session_id": "s"}).to_string();
    let header = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, identity);
    let client = reqwest::Client::new();
    let post = |path: &str, body| client.post(shop.accounts.url(path)).header("x-identity", &header).json(&body);
    for (path, body) in [
        ("/auth/permissions", json!({"login": "bob", "permissions": ["orders:write"]})),
        ("/auth/password", json!({"old": "wonderland", "new": "looking-glass"})),
        ("/auth/logout-everywhere", json!({})),
    ] {
        let reply = send(post(path, body)).await;
        assert_eq!((reply.status, &reply.body["error"]), (503, &json!("temporarily_unavailable")), "{path}: {reply:?}");
    }
    let refresh = json!({"refresh_token": alice.refresh});
    assert_eq!(send(post("/auth/refresh", refresh)).await.status, 400, "the families have ended");
    let login = |password: &str| post("/auth/login", json!({"login": "alice", "password": password}));
    assert_eq!(send(login("looking-glass")).await.status, 200, "the password is the new one");
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_are_limited_by_login() {
    let accounts = Program::start(&["accounts", "--database", "sqlite::memory:"]).await;
    let client = reqwest::Client::new();
    let login = |login: &str, password: &str| {
        send(client.post(accounts.url("/auth/login")).json(&json!({"login": login, "password": password})))
    };
    let guesses = futures_util::future::join_all((0..30).map(|guess| login("alice", &format!("guess {guess}")))).await;
    let count = |status: u16| guesses.iter().filter(|reply| reply.status == status).count();
    // 503: too many at once for the machine. Either way not one more than ten is compared.
    assert!(count(401) <= 10 && count(429) == 20, "{guesses:?}");
    let reply = login("alice", "wonderland").await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, "60"), "not even the right one: {reply:?}");
    assert_eq!(login("bob", "builder").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_arguments_are_reported_without_their_secrets() {
    for (args, said) in [
        (&["--database", "mysql://root:hunter2@localhost/x"][..], "must begin with `sqlite:` or `postgres:`"),
        (&["--database", "sqlite::memory:", "--redis", "reddis://:hunter2@localhost"], "--redis"),
        (&["--database", "sqlite::memory:", "--doorward", "http://127.0.0.1:9"], "--admin-key-file"),
        (&["--database", "sqlite::memory:", "--key-lifetime", "1s"], "between 5s and 365d"),
    ] {
        let args: Vec<_> = ["accounts", "--listen", "127.0.0.1:0"].iter().chain(args).copied().collect();
        let (succeeded, stderr) = run(&args).await;
        assert!(!succeeded && stderr.contains(said), "{args:?}: {stderr}");
        assert!(!stderr.contains("hunter2") && !stderr.contains(OPERATOR), "{stderr}");
    }
}
