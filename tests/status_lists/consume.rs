//! Tokens whose status is in a list of their issuer.

use serde_json::{Value, json};

use super::{Fixture, Issuer};
use crate::api::{admin_keys, post};
use crate::support::doorward::{Doorward, run};
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::now;
use crate::support::upstream::Upstream;

/// The status and the reason that a client of Envoy receives.
async fn through(envoy: &Envoy, token: &str) -> (u16, String) {
    let response = reqwest::Client::new().get(envoy.url("/orders")).bearer_auth(token).send().await.unwrap();
    let (status, body) = (response.status().as_u16(), response.json::<Value>().await.unwrap());
    (status, body["reason"].as_str().unwrap_or("ok").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_revokes_suspends_and_lifts_through_envoy() {
    let (Some(issuer), Some(binary)) = (Issuer::start(), envoy::binary()) else { return };
    let (doorward, upstream) = (Doorward::start(&issuer.config("{refresh: 1s}", "")).await, Upstream::start().await);
    let envoy = Envoy::start(&binary, "edge-tcp.yaml", &doorward.check, upstream.address).await;
    let [alice, bob, carol] = [("alice", 0), ("bob", 7), ("carol", 12)].map(|(user, at)| issuer.listed(user, "/1", at));
    let publish = |alice: u8, bob: u8| {
        let mut values = [0_u8; 20];
        (values[0], values[7]) = (alice, bob);
        issuer.publish("/1", 2, &values, &json!({}));
    };
    let ok = (200, "ok".to_owned());
    publish(0, 0);
    for token in [&alice, &bob, &carol] {
        eventually("the list is fetched", async || through(&envoy, token).await == ok).await;
    }
    publish(1, 2);
    eventually("alice is revoked", async || through(&envoy, &alice).await == (401, "revoked".to_owned())).await;
    eventually("bob is suspended", async || through(&envoy, &bob).await == (401, "suspended".to_owned())).await;
    assert_eq!(through(&envoy, &carol).await, ok);
    publish(1, 0);
    eventually("bob is accepted again", async || through(&envoy, &bob).await == ok).await;
    assert_eq!(through(&envoy, &alice).await, (401, "revoked".to_owned()));
    assert_eq!(through(&envoy, &carol).await, ok);
    let loaded = doorward.metric("doorward_status_list_fetches_total{issuer=\"main\",result=\"ok\"}").await;
    assert!(loaded >= Some(3.0), "{loaded:?}");
}

/// Else a change of the list would take its own time and that of the proxy's cache.
#[tokio::test(flavor = "multi_thread")]
async fn no_proxy_keeps_an_answer_to_a_token_with_a_status() {
    let Some(fixture) = Fixture::start("{}", "forward_auth: {cache: 60s}\n").await else { return };
    fixture.issuer.publish("/1", 1, &[0; 8], &json!({}));
    let ask = async |token: &str| {
        let request = reqwest::Client::new().get(format!("http://{}/auth/orders", fixture.doorward.http));
        let response = request.bearer_auth(token).send().await.unwrap();
        (response.status().as_u16(), response.headers()["cache-control"].to_str().unwrap().to_owned())
    };
    let listed = fixture.issuer.listed("alice", "/1", 3);
    eventually("the list is fetched", async || fixture.reason(&listed).await == "ok").await;
    assert_eq!(ask(&listed).await, (200, "no-store".to_owned()));
    let (status, kept) = ask(&fixture.issuer.token("alice", &json!({}))).await;
    assert!(status == 200 && kept.starts_with("max-age="), "{kept}");
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_every_size_are_read_as_the_other_library_writes_them() {
    let Some(fixture) = Fixture::start("{valid: [0, 3], suspended: [2, 12]}", "").await else { return };
    for bits in [1_u8, 2, 4, 8] {
        let (path, largest) = (format!("/{bits}"), u8::MAX >> (8 - bits));
        let values: Vec<u8> = (0..40_u8).map(|at| at.wrapping_mul(37) & largest).chain([largest, 0, 1]).collect();
        fixture.issuer.publish(&path, bits, &values, &json!({}));
        for (at, value) in values.iter().enumerate() {
            let expected = match value {
                0 | 3 => (200, "ok"),
                2 | 12 => (401, "suspended"),
                _ => (401, "revoked"),
            };
            let (status, reason) = fixture.check(&fixture.issuer.listed("alice", &path, at)).await;
            assert_eq!((status, reason.as_str()), expected, "{value} of {bits} bits");
        }
        let beyond = values.len().next_multiple_of(8);
        let beyond = fixture.issuer.listed("alice", &path, beyond);
        assert_eq!(fixture.check(&beyond).await, (401, "invalid_claim".to_owned()));
        assert!(fixture.issuer.fetches(&path) <= 2, "shared by all tokens");
    }
    fixture.doorward.logs("the status list of the issuer has 0x0c (application-specific) for this token").await;
    fixture.doorward.logs("an index of the list, which has 48 values").await;
}

/// A list that is refused leaves its tokens without a status.
#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_not_right_counts_as_not_there() {
    let Some(fixture) = Fixture::start("{refresh: 1s}", "limits: {status_list_bytes: 1024}\n").await else { return };
    let wrong = [
        ("/key", json!({"other": true}), "bad_signature"),
        ("/sub", json!({"claims": {"sub": "https://idp.test/1"}}), "`sub` is"),
        ("/no-sub", json!({"claims": {"sub": null, "x": 1}}), "`sub` is missing"),
        ("/iss", json!({"claims": {"iss": "https://idp.test"}}), "unknown_issuer"),
        ("/typ", json!({"header": {"typ": "at+jwt"}}), "is not `statuslist+jwt`"),
        ("/exp", json!({"claims": {"exp": now() - 40}}), "expired"),
        ("/iat", json!({"claims": {"iat": now() + 100}}), "not_yet_valid"),
        ("/no-iat", json!({"claims": {"iat": null}}), "`iat` is missing"),
        ("/ttl", json!({"claims": {"ttl": 0}}), "`ttl` is"),
        ("/list", json!({"claims": {"status_list": {"bits": 3, "lst": "eNrbuRgAAhcBXQ"}}}), "`bits` (1, 2, 4 or 8)"),
        ("/lst", json!({"claims": {"status_list": {"bits": 1, "lst": "AAAA"}}}), "not compressed in the ZLIB format"),
        ("/large", json!({}), "larger than `limits.status_list_bytes`"),
    ];
    for (path, more, cause) in wrong {
        let values = vec![0; if path == "/large" { 1025 * 8 } else { 8 }];
        fixture.issuer.publish(path, 1, &values, &more);
        let token = fixture.issuer.listed("alice", path, 1);
        assert_eq!(fixture.check(&token).await, (503, "revocations_stale".to_owned()), "{path}");
        fixture.doorward.logs(cause).await;
    }
    fixture.issuer.command("bomb", &json!({"path": "/bomb", "bytes": 500_000}));
    for path in ["/bomb", "/none"] {
        let token = fixture.issuer.listed("alice", path, 1);
        assert_eq!(fixture.check(&token).await, (503, "revocations_stale".to_owned()), "{path}");
    }
    fixture.doorward.logs("answered 404").await;
    // Right again.
    let token = fixture.issuer.listed("alice", "/key", 1);
    fixture.issuer.publish("/key", 1, &[0; 8], &json!({"claims": {"iss": null, "ttl": 43_200, "exp": now() + 600}}));
    eventually("the right list is taken", async || fixture.reason(&token).await == "ok").await;
    // A list is no access token.
    fixture.issuer.publish("/own", 1, &[0; 8], &json!({}));
    let body = reqwest::get(fixture.issuer.url("/own")).await.unwrap().text().await.unwrap();
    assert_eq!(fixture.reason(&body).await, "wrong_type");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_grows_is_fetched_for_the_new_tokens() {
    let Some(fixture) = Fixture::start("{refresh: 1h}", "").await else { return };
    fixture.issuer.publish("/1", 8, &[0; 4], &json!({}));
    let (old, new) = (fixture.issuer.listed("alice", "/1", 3), fixture.issuer.listed("bob", "/1", 4));
    assert_eq!(fixture.reason(&old).await, "ok");
    fixture.issuer.publish("/1", 8, &[0; 5], &json!({}));
    eventually("the new index is there", async || fixture.reason(&new).await == "ok").await;
    assert!(fixture.issuer.fetches("/1") >= 2);
    // An older copy, as from a cache on the way, changes nothing.
    fixture.issuer.publish("/1", 8, &[1; 9], &json!({"claims": {"iat": now() - 100}}));
    let beyond = fixture.issuer.listed("carol", "/1", 8);
    eventually("the old copy was seen", async || {
        fixture.reason(&beyond).await;
        fixture.doorward.logged("earlier than that of the stored list")
    })
    .await;
    assert_eq!(fixture.check(&beyond).await, (503, "revocations_stale".to_owned()));
    assert_eq!(fixture.reason(&old).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_first_fetch_and_when_it_is_old_the_policy_decides() {
    let rules = "rules:\n  - {name: lenient, match: {path: /lenient}, on_stale: allow}\n  \
                 - {name: asking, match: {path: /asking}, on_stale: lookup}\n";
    let Some(fixture) = Fixture::start("{refresh: 1s, max_stale: 2s}", rules).await else { return };
    let [alice, mallory] = [("alice", 0), ("mallory", 1)].map(|(user, at)| fixture.issuer.listed(user, "/1", at));
    let stale = (503, "revocations_stale".to_owned());
    let ok = (200, "ok".to_owned());
    fixture.issuer.answer("/1", 500);
    for path in ["/", "/lenient", "/asking"] {
        assert_eq!(fixture.at(path, &alice).await, stale, "{path}: nothing is known yet");
    }
    fixture.issuer.publish("/1", 1, &[0, 1], &json!({}));
    eventually("it is there", async || fixture.check(&alice).await == ok).await;
    for path in ["/lenient", "/asking"] {
        assert_eq!(fixture.at(path, &alice).await, ok, "{path}");
        assert_eq!(fixture.at(path, &mallory).await, (401, "revoked".to_owned()));
    }
    fixture.issuer.answer("/1", 500);
    eventually("it is old", async || fixture.check(&alice).await == stale).await;
    assert_eq!(fixture.at("/lenient", &alice).await, ok);
    let degraded = "doorward_degraded_total{control=\"revocations\",fallback=\"stale_view\"}";
    assert!(fixture.doorward.metric(degraded).await >= Some(1.0));
    assert_eq!(fixture.at("/asking", &alice).await, stale);
    for path in ["/", "/lenient", "/asking"] {
        assert_eq!(fixture.at(path, &mallory).await, (401, "revoked".to_owned()), "what is known revoked stays so");
    }
    // An expired one is old, too, though it was fetched a moment ago.
    fixture.issuer.publish("/1", 1, &[0, 1], &json!({"claims": {"exp": now() - 28}}));
    eventually("it is fetched", async || fixture.check(&alice).await == ok).await;
    eventually("it has expired, with the leeway", async || fixture.check(&alice).await == stale).await;
    fixture.issuer.publish("/1", 1, &[0, 1], &json!({}));
    eventually("it is there again", async || fixture.check(&alice).await == ok).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_fetched_from_the_configured_places_alone() {
    let Some(issuer) = Issuer::start() else { return };
    let Some(other) = Issuer::start() else { return };
    let settings = format!("{{prefixes: [\"{}\"]}}", other.url("/lists/"));
    let doorward = Doorward::start(&issuer.config(&settings, "limits: {status_lists: 2}\n")).await;
    let checks = Checks::connect(&doorward.check).await;
    let reason = async |uri: String| {
        let token = issuer.token("alice", &json!({"status": {"status_list": {"idx": 0, "uri": uri}}}));
        checks.check(get("/").token(&token)).await.reason().to_owned()
    };
    // Signed by the issuer, wherever it is.
    let at_other = json!({"claims": {"sub": other.url("/lists/1"), "iss": null}});
    issuer.publish("/copy", 1, &[0], &at_other);
    let copy = reqwest::get(issuer.url("/copy")).await.unwrap().text().await.unwrap();
    other.command("body", &json!({"path": "/lists/1", "body": copy}));
    assert_eq!(reason(other.url("/lists/1")).await, "ok");
    for path in ["/", "/1", "/listsx/1", "/lists/../1", "/lists/%2e%2E/1"] {
        assert_eq!(reason(other.url(path)).await, "invalid_claim", "{path}");
        assert_eq!(other.fetches(path), 0);
    }
    for uri in ["https://idp.test/1", "file:///etc/passwd", "", &issuer.url("")] {
        assert_eq!(reason(uri.to_owned()).await, "invalid_claim", "{uri}");
    }
    // A third list has no place while the others are in use.
    issuer.publish("/2", 1, &[0], &json!({}));
    issuer.publish("/3", 1, &[0], &json!({}));
    assert_eq!(reason(issuer.url("/2")).await, "ok");
    assert_eq!(reason(issuer.url("/3")).await, "revocations_stale");
    assert_eq!((issuer.fetches("/2"), issuer.fetches("/3")), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_explanation_shows_the_place_and_its_value() {
    let Some(fixture) = Fixture::start("{}", &admin_keys()).await else { return };
    fixture.issuer.publish("/1", 2, &[0, 1], &json!({}));
    let token = fixture.issuer.listed("alice", "/1", 1);
    assert_eq!(fixture.reason(&token).await, "revoked");
    let asked = json!({"method": "GET", "path": "/", "host": "a.test", "token": token});
    let explained = post(&fixture.doorward, "/v1/explain", &asked).await.body;
    assert_eq!((&explained["decision"], &explained["reason"]), (&json!("denied"), &json!("revoked")), "{explained}");
    let place = json!({"uri": fixture.issuer.url("/1"), "idx": 1, "value": "0x01 (INVALID)"});
    assert_eq!(explained["revocation"]["status_list"], place);
    // The command fetches no list.
    let file = fixture.doorward.dir.path().join("doorward.yaml");
    let (code, printed, error) = run(&["explain", "--config", file.to_str().unwrap(), &token], "");
    assert_eq!(code, 0, "{error}");
    assert!(printed.contains("undecided (the running service fetches the status list of the issuer)"), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_turns_it_on_for_tokens_that_were_accepted() {
    let Some(issuer) = Issuer::start() else { return };
    let doorward = Doorward::start(&issuer.config("", "")).await;
    let checks = Checks::connect(&doorward.check).await;
    issuer.publish("/1", 2, &[1, 2], &json!({}));
    let token = issuer.listed("alice", "/1", 0);
    let reason = async || checks.check(get("/").token(&token)).await.reason().to_owned();
    for status in [json!(5), json!({"status_list": {"idx": "x"}})] {
        let token = issuer.token("alice", &json!({"status": status}));
        assert!(checks.check(get("/").token(&token)).await.allowed(), "not read unless it is on");
    }
    assert_eq!((reason().await.as_str(), issuer.fetches("/1")), ("ok", 0));
    let file = doorward.dir.path().join("doorward.yaml");
    let before = std::fs::read_to_string(&file).unwrap();
    let with = |settings: &str| before.replace("audiences:", &format!("status_list: {settings}, audiences:"));
    std::fs::write(&file, with("{refresh: 1h}")).unwrap();
    eventually("it is on", async || reason().await == "revoked").await;
    std::fs::write(&file, with("{refresh: 1h, suspended: [1]}")).unwrap();
    eventually("the value has another meaning", async || reason().await == "suspended").await;
    assert_eq!(issuer.fetches("/1"), 1, "the list stays stored");
    std::fs::write(&file, &before).unwrap();
    eventually("it is off", async || reason().await == "ok").await;
}
