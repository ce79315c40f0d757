//! What is revoked here, as a list for others.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use doorward::authz::api_key::digest_of;
use reqwest::header::IF_NONE_MATCH;
use serde_json::{Value, json};

use super::Issuer;
use crate::api::{admin_keys, revoke};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::{Tokens, now};

/// The configuration of an issuer whose list is published.
fn publishing(tokens: &Tokens, uri: &str, key: &str, more: &str) -> String {
    let key = format!("{}/src/config/testdata/{key}", env!("CARGO_MANIFEST_DIR"));
    let publish =
        format!("publish_status_list: {{uri: \"{uri}\", key_file: \"{key}\", entries: 8192, ttl: 2s}}, audiences:");
    tokens.config(&format!("{}{more}", admin_keys())).replace("audiences:", &publish)
}

async fn revoke_token(doorward: &Doorward, id: &str) {
    let revocation = json!({"kind": "token", "issuer": "dev", "id": id, "expires_at": now() + 600});
    assert_eq!(revoke(doorward, &revocation).await.status, 201);
}

async fn get_json(doorward: &Doorward, path: &str) -> Value {
    serde_json::from_str(&doorward.get(path).await.1).unwrap()
}

async fn place(doorward: &Doorward, id: &str) -> Value {
    let url = format!("http://{}/status-lists/dev/index", doorward.http);
    let url = reqwest::Url::parse_with_params(&url, [("token_id", id)]).unwrap();
    reqwest::get(url).await.unwrap().json().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_library_reads_what_is_revoked_here() {
    let Some(judge) = Issuer::start() else { return };
    let (tokens, uri) = (Tokens::new(), "https://gateway.test/status-lists/dev");
    let doorward = Doorward::start(&publishing(&tokens, uri, "sign-p256.pem", "")).await;
    let keys = get_json(&doorward, "/status-lists/dev/jwks.json").await;
    let read = async || {
        let (status, jwt) = doorward.get("/status-lists/dev").await;
        assert_eq!(status, 200, "{jwt}");
        judge.command("judge", &json!({"jwt": jwt, "key": keys["keys"][0]}))
    };
    let list = read().await;
    assert_eq!((&list["isSigned"], &list["header"]["typ"]), (&json!(true), &json!("statuslist+jwt")), "{list}");
    assert_eq!(list["header"]["kid"], keys["keys"][0]["kid"]);
    assert_eq!((&list["bits"], &list["entries"], &list["set"]), (&json!(1), &json!(8192), &json!([])));
    let claims = &list["claims"];
    assert_eq!((&claims["sub"], &claims["ttl"]), (&json!(uri), &json!(2)));
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 600);

    let ids = ["9f1c4c0e", "0f8fad5b-d9cb-469f-a165-70867728950e", "a:b/c \u{fc}", &"x".repeat(200)];
    let mut expected = Vec::new();
    for id in ids {
        revoke_token(&doorward, id).await;
        // The published function, written once more.
        let is_plain = id.len() <= 128 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let hex = |digest: [u8; 32]| digest.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let name = if is_plain { id.to_owned() } else { format!("sha256:{}", hex(digest_of(id.as_bytes()))) };
        let index = u32::from_be_bytes(*digest_of(name.as_bytes()).first_chunk().unwrap()) % 8192;
        assert_eq!(place(&doorward, id).await, json!({"uri": uri, "idx": index}), "{id}");
        expected.push(json!([index, 1]));
    }
    expected.sort_by_key(|entry| entry[0].as_u64());
    // What a list cannot say.
    let user = json!({"kind": "user", "issuer": "dev", "id": "bob"});
    assert_eq!(revoke(&doorward, &user).await.status, 201);
    eventually("the list has the tokens", async || read().await["set"] == json!(expected)).await;

    let client = reqwest::Client::new();
    let url = format!("http://{}/status-lists/dev", doorward.http);
    eventually("a known list is not sent again", async || {
        let first = client.get(&url).send().await.unwrap();
        let header = |name: &str| first.headers()[name].to_str().unwrap().to_owned();
        assert_eq!(header("content-type"), "application/statuslist+jwt");
        assert!(["public, max-age=1", "public, max-age=2"].contains(&header("cache-control").as_str()));
        let again = client.get(&url).header(IF_NONE_MATCH, header("etag")).send().await.unwrap();
        assert!([200, 304].contains(&again.status().as_u16()));
        again.status() == 304 && again.text().await.unwrap().is_empty()
    })
    .await;
    for path in ["/status-lists/other", "/status-lists/other/index?token_id=1", "/status-lists/other/jwks.json"] {
        assert_eq!(doorward.get(path).await.0, 404, "{path}");
    }
    for query in ["", "?id=1", "?token_id=1&x=2"] {
        assert_eq!(doorward.get(&format!("/status-lists/dev/index{query}")).await.0, 400, "{query}");
    }
}

/// One publishes, the other reads; they share no store.
#[tokio::test(flavor = "multi_thread")]
async fn a_doorward_reads_the_list_of_another() {
    let tokens = Tokens::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let uri = format!("http://127.0.0.1:{port}/status-lists/dev");
    let listen = format!("listen: {{check: \"127.0.0.1:0\", http: \"127.0.0.1:{port}\"}}\n");
    let here = Doorward::start(&publishing(&tokens, &uri, "sign-ed25519.pem", &listen)).await;
    let mut keys = tokens.issuer.jwks().clone();
    let list_keys = get_json(&here, "/status-lists/dev/jwks.json").await;
    keys["keys"].as_array_mut().unwrap().extend(list_keys["keys"].as_array().unwrap().clone());
    let settings =
        format!("status_list: {{refresh: 1s, prefixes: [\"http://127.0.0.1:{port}/status-lists/\"]}}, keys:");
    let config = tokens.config("").replace(&tokens.issuer.jwks().to_string(), &keys.to_string());
    let there = Doorward::start(&config.replace("keys: {jwks", &format!("{settings} {{jwks"))).await;
    let checks = Checks::connect(&there.check).await;

    let mut minted = Vec::new();
    for id in ["first", "second"] {
        let status = json!({"status_list": place(&here, id).await});
        minted.push(tokens.with(json!({"jti": id, "status": status})));
    }
    let reason = async |at: usize| checks.check(get("/").token(&minted[at])).await.reason().to_owned();
    eventually("the list is fetched", async || reason(0).await == "ok" && reason(1).await == "ok").await;
    revoke_token(&here, "first").await;
    eventually("the other one refuses it", async || reason(0).await == "revoked").await;
    assert_eq!(reason(1).await, "ok");
}

/// Of the lists of two instances, a verifier keeps the newer one: that of the instance whose view is newer.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_is_dated_by_the_view_that_it_was_made_of() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = format!("revocation: {{store: redis, max_staleness: 10m, redis: {{url: \"{}\"}}}}\n", redis.url());
    let doorward = Doorward::start(&publishing(&tokens, "https://gateway.test/1", "sign-ed25519.pem", &store)).await;
    let dates = async || {
        let (status, list) = doorward.get("/status-lists/dev").await;
        assert_eq!(status, 200, "{list}");
        let claims = URL_SAFE_NO_PAD.decode(list.split('.').nth(1).unwrap()).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap())
    };
    eventually("it is of now", async || now() - dates().await.0 <= 3).await;
    redis.signal("-STOP");
    eventually("it is of the time up to which the view is complete", async || now() - dates().await.0 >= 6).await;
    let (issued, ends) = dates().await;
    assert_eq!(ends - issued, 600);
    redis.signal("-CONT");
    eventually("it is of now again", async || now() - dates().await.0 <= 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_list_is_made_of_a_view_that_is_too_old() {
    let (tokens, redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = format!("revocation: {{store: redis, max_staleness: 2s, redis: {{url: \"{}\"}}}}\n", redis.url());
    let doorward = Doorward::start(&publishing(&tokens, "https://gateway.test/1", "sign-rsa2048.pem", &store)).await;
    assert_eq!(doorward.get("/status-lists/dev").await.0, 200);
    redis.signal("-STOP");
    eventually("there is none", async || {
        let (status, body) = doorward.get("/status-lists/dev").await;
        status == 503 && body.contains("urn:doorward:problem:not-current")
    })
    .await;
    redis.signal("-CONT");
    eventually("there is one again", async || doorward.get("/status-lists/dev").await.0 == 200).await;
}
