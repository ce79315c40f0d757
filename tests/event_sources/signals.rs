//! `/signals/events`: the effect of each event, and the refusals (RFC 8935, CAEP and RISC 1.0).

use serde_json::{Value, json};

use super::{Edge, changed, fresh_id};
use crate::api::{Reply, reason, send};
use crate::ledger::support::RedisServer;
use crate::support::doorward::Doorward;
use crate::support::eventually;
use crate::support::grpc::Checks;
use crate::support::proxy::Proxy;
use crate::support::tokens::{Tokens, now};

const PATH: &str = "/signals/events";
const TYPE: &str = "application/secevent+jwt";
const SIGNALS: &str = "https://signals.test";
const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";
const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type/";
const SCIM: &str = "urn:ietf:params:scim:event:";
const SSF: &str = "https://schemas.openid.net/secevent/ssf/event-type/";

/// An edge with a transmitter that signs with this key.
pub async fn edge(transmitter: &Tokens, more: &str, beside: &str) -> Edge {
    Edge::start(&format!("{beside}{}", section(transmitter, more))).await
}

pub fn section(transmitter: &Tokens, more: &str) -> String {
    let keys = transmitter.issuer.jwks();
    format!(
        "signals: {{transmitters: [{{issuer: \"{SIGNALS}\", audience: doorward, target_issuer: dev, keys: {{jwks: {keys}}}{more}}}]}}\n"
    )
}

pub fn claims(uri: &str, event: Value, changes: &Value) -> Value {
    let claims = json!({"iss": SIGNALS, "aud": "doorward", "iat": now(), "jti": fresh_id(), "events": {uri: event}});
    changed(&claims, changes)
}

fn iss_sub(sub: &str) -> Value {
    json!({"format": "iss_sub", "iss": doorward::dev::ISSUER, "sub": sub})
}

fn set(transmitter: &Tokens, claims: &Value) -> String {
    super::sign(transmitter, Some("secevent+jwt"), claims)
}

async fn push(edge: &Edge, set: &str) -> Reply {
    send(edge.post(PATH, TYPE, set)).await
}

#[track_caller]
fn is_taken(reply: &Reply) {
    assert_eq!((reply.status, reply.header("cache-control")), (202, "no-store"), "{reply:?}");
}

#[track_caller]
fn is_refused(what: &str, reply: &Reply, status: u16, code: &str) {
    assert_eq!((reply.status, reply.body["err"].as_str()), (status, Some(code)), "{what}: {reply:?}");
    assert_eq!((reply.header("content-type"), reply.header("cache-control")), ("application/json", "no-store"));
    assert!(reply.body["description"].as_str().is_some_and(|text| !text.is_empty()));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_that_ends_something_does() {
    let transmitter = Tokens::new();
    let edge = edge(&transmitter, "", "").await;
    let of_user = [
        (CAEP, "credential-change"),
        (CAEP, "token-claims-change"),
        (RISC, "account-disabled"),
        (RISC, "account-purged"),
        (RISC, "account-credential-change-required"),
        (RISC, "credential-compromise"),
        (RISC, "identifier-changed"),
        (RISC, "identifier-recycled"),
        (RISC, "sessions-revoked"),
        (CAEP, "session-revoked"),
        (SCIM, "prov:delete"),
        (SCIM, "prov:deactivate"),
    ];
    for (base, name) in of_user {
        let user = format!("user-of-{name}");
        let (mine, beside) = (edge.tokens.of(&user), edge.tokens.of("bystander"));
        let message = claims(&format!("{base}{name}"), json!({"subject": iss_sub(&user)}), &json!({}));
        is_taken(&edge.ends(name, &mine, push(&edge, &set(&transmitter, &message))).await);
        assert_eq!((edge.reason(&mine).await.as_str(), edge.reason(&beside).await.as_str()), ("revoked", "ok"));
    }
    assert_eq!(edge.counted("signals_push", "applied").await, 12);
}

/// What the event says of its cause is kept beside the revocation.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_s_reason_and_transaction_are_kept() {
    let transmitter = Tokens::new();
    let edge = edge(&transmitter, "", "").await;
    let event = json!({
        "subject": iss_sub("alice"), "initiating_entity": "policy",
        "reason_admin": {"en": "Policy Violation: C076E822"}, "reason_user": {"en": "not for operators"},
    });
    let message = claims(&format!("{CAEP}session-revoked"), event, &json!({"txn": "8675309"}));
    is_taken(&push(&edge, &set(&transmitter, &message)).await);
    let listed = crate::api::read(&edge.doorward, "/v1/revocations?kind=user", crate::api::READER).await;
    let item = &listed.body["revocations"][0];
    let reason = "session-revoked by policy: Policy Violation: C076E822 (txn 8675309)";
    assert_eq!((&item["by"], &item["reason"]), (&json!("signals.1"), &json!(reason)));
}

/// A subject that is mapped, and whose revocation may hit nobody, is not acknowledged in silence.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_no_token_names_is_counted() {
    let transmitter = Tokens::new();
    let edge = edge(&transmitter, "", "").await;
    let uri = format!("{CAEP}credential-change");
    let by_address = || claims(&uri, json!({"subject": {"format": "email", "email": "alice@example.com"}}), &json!({}));
    is_taken(&push(&edge, &set(&transmitter, &by_address())).await);
    assert_eq!((edge.counted("signals_push", "unseen").await, edge.revocations().await), (1, 1));
    assert!(edge.doorward.logged("no token verified here"));
    let token = edge.tokens.of("bob");
    assert_eq!(edge.reason(&token).await, "ok");
    is_taken(&push(&edge, &set(&transmitter, &by_address())).await);
    assert_eq!((edge.counted("signals_push", "unseen").await, edge.counted("signals_push", "applied").await), (1, 1));
    let shown =
        crate::api::read(&edge.doorward, "/v1/signals", crate::api::READER).await.body["transmitters"][0].clone();
    assert_eq!(
        (&shown["events"]["unseen"], &shown["events"]["applied"], &shown["state"]),
        (&json!(1), &json!(1), &Value::Null)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_are_understood_in_each_format() {
    let transmitter = Tokens::new();
    let edge = edge(&transmitter, ", subjects: [iss_sub, opaque, email]", "").await;
    let change = format!("{CAEP}credential-change");
    let session = format!("{CAEP}session-revoked");
    let at_top = |subject: Value| claims(&change, json!({}), &json!({"sub_id": subject}));
    let named = |uri: &str, subject: Value| claims(uri, json!({"subject": subject}), &json!({}));
    for (what, message) in [
        ("iss_sub beside the events", at_top(iss_sub("alice"))),
        ("the transmitter's own sub", named(&change, json!({"format": "iss_sub", "iss": SIGNALS, "sub": "alice"}))),
        ("opaque", named(&change, json!({"format": "opaque", "id": "alice"}))),
        ("email", named(&change, json!({"format": "email", "email": "Alice@Example.com"}))),
        ("an old spelling", named(&change, json!({"subject_type": "iss-sub", "iss": SIGNALS, "sub": "alice"}))),
        (
            "aliases",
            named(
                &change,
                json!({"format": "aliases", "identifiers": [{"format": "phone_number", "phone_number": "+1"}, iss_sub("alice")]}),
            ),
        ),
        ("complex, user", named(&change, json!({"user": iss_sub("alice"), "tenant": {"format": "opaque", "id": "t"}}))),
        (
            "scim, by its id",
            named(&format!("{SCIM}prov:delete"), json!({"format": "scim", "uri": "/scim/v2/Users/alice"})),
        ),
        (
            "scim, by the id of its client",
            named(
                &format!("{SCIM}prov:deactivate"),
                json!({"format": "scim", "uri": "https://scim.test/Users/2b2f", "externalId": "alice"}),
            ),
        ),
        ("complex with its format", named(&change, json!({"format": "complex", "user": iss_sub("alice")}))),
        (
            "complex, session",
            named(&session, json!({"session": {"format": "opaque", "id": "session-of-alice"}, "user": iss_sub("x")})),
        ),
        (
            "all sessions, as Keycloak writes them",
            named(&session, json!({"session": {"format": "opaque", "id": "ALL"}, "user": iss_sub("alice")})),
        ),
        ("opaque session", named(&session, json!({"format": "opaque", "id": "session-of-alice"}))),
    ] {
        // Issued after the watermark of an earlier row.
        let edge = if what.contains("session") {
            self::edge(&transmitter, "", "").await
        } else {
            self::edge(&transmitter, ", subjects: [iss_sub, opaque, email, scim]", "").await
        };
        let token = edge.tokens.of("alice");
        is_taken(&edge.ends(what, &token, push(&edge, &set(&transmitter, &message))).await);
    }
    let token = edge.tokens.of("alice");
    let jti = json!({"format": "jwt_id", "iss": doorward::dev::ISSUER, "jti": jti_of(&token)});
    let message = named(&change, jti);
    is_taken(&edge.ends("jwt_id", &token, push(&edge, &set(&transmitter, &message))).await);

    // An agent: the tokens in which it acts, of every user.
    let (agents, beside) = (edge.tokens.with(json!({"act": {"sub": "agent-7"}})), edge.tokens.of("alice"));
    let message = named(&change, json!({"user": null, "application": {"format": "opaque", "id": "agent-7"}}));
    is_taken(&edge.ends("complex, application", &agents, push(&edge, &set(&transmitter, &message))).await);
    assert_eq!(edge.reason(&beside).await, "ok");

    // No supported subject, or none that can be mapped: accepted, counted, without effect.
    let edge = self::edge(&transmitter, ", subjects: [iss_sub, opaque]", "").await;
    let token = edge.tokens.of("alice");
    let foreign = json!({"format": "iss_sub", "iss": "https://other.test", "sub": "alice"});
    for (number, subject) in [
        foreign,
        json!({"format": "email", "email": "alice@example.com"}),
        json!({"format": "phone_number", "phone_number": "+1"}),
        json!({"format": "scim", "uri": "/Users/alice"}),
        json!({"format": "iss_sub", "iss": SIGNALS}),
        json!({"format": "opaque", "id": ""}),
        json!({"device": {"format": "opaque", "id": "alice"}}),
        json!({"user": "alice", "application": {"format": "opaque", "id": "agent-7"}}),
        json!({"user": "alice"}),
        json!("alice"),
    ]
    .into_iter()
    .enumerate()
    {
        is_taken(&push(&edge, &set(&transmitter, &named(&change, subject))).await);
        assert_eq!(edge.counted("signals_push", "unmapped").await, u64::try_from(number).unwrap() + 1);
    }
    assert_eq!((edge.reason(&token).await.as_str(), edge.revocations().await), ("ok", 0));
}

fn jti_of(token: &str) -> String {
    use base64::Engine;
    let claims = token.split('.').nth(1).unwrap();
    let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
    serde_json::from_slice::<Value>(&claims).unwrap()["jti"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_counts_from_when_it_happened() {
    let transmitter = Tokens::new();
    let edge = edge(&transmitter, "", "").await;
    let uri = format!("{CAEP}token-claims-change");
    let at = |user: &str, when: Value, changes: Value| {
        claims(&uri, json!({"subject": iss_sub(user), "event_timestamp": when}), &changes)
    };
    let began = now(); // One moment for events and tokens, however long the rows take.
    let token = |user: &str, ago: i64| edge.tokens.with(json!({"sub": user, "iat": began - ago, "sid": fresh_id()}));
    for (user, message, older, newer) in [
        ("seconds", at("seconds", json!(now() - 100), json!({})), 101, 90),
        ("millis", at("millis", json!((now() - 100) * 1000), json!({})), 101, 90),
        ("toe", at("toe", Value::Null, json!({"toe": now() - 100})), 101, 90),
        ("unreadable", at("unreadable", json!("yesterday"), json!({"iat": now() - 100})), 101, 90),
        ("negative", at("negative", json!(-1), json!({"iat": now() - 100})), 101, 90),
        ("zero", at("zero", json!(0), json!({"iat": now() - 100})), 101, 90),
        ("toe-zero", at("toe-zero", Value::Null, json!({"toe": 0, "iat": now() - 100})), 101, 90),
        ("iat", claims(&uri, json!({"subject": iss_sub("iat")}), &json!({"iat": now() - 100})), 101, 90),
    ] {
        let mut message = message;
        if message["events"][&uri]["event_timestamp"].is_null() {
            message["events"][&uri].as_object_mut().unwrap().remove("event_timestamp");
        }
        is_taken(&push(&edge, &set(&transmitter, &message)).await);
        assert_eq!(edge.reason(&token(user, older)).await, "revoked", "{user}");
        assert_eq!(edge.reason(&token(user, newer)).await, "ok", "{user}: it has the new claims already");
    }
    // Never later than now, whatever its claims.
    is_taken(&push(&edge, &set(&transmitter, &at("future", json!(now() + 9999), json!({})))).await);
    let soon = edge.tokens.with(json!({"sub": "future", "iat": now() + 3, "sid": fresh_id()}));
    assert_eq!((edge.reason(&token("future", 1)).await.as_str(), edge.reason(&soon).await.as_str()), ("revoked", "ok"));
    // So old that every token that it could concern has expired.
    is_taken(&push(&edge, &set(&transmitter, &at("old", json!(now() - 90_000), json!({"iat": now() - 90_000})))).await);
    assert_eq!(edge.counted("signals_push", "stale").await, 1);
    assert_eq!(edge.revocations().await, 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_events_have_no_effect() {
    let transmitter = Tokens::new();
    let edge = edge(&transmitter, "", "limits: {http_body_bytes: 20000}\n").await;
    let token = edge.tokens.of("alice");
    let uri = format!("{CAEP}credential-change");
    let good = |changes: Value| claims(&uri, json!({"subject": iss_sub("alice")}), &changes);
    let signed = |changes: Value| set(&transmitter, &good(changes));
    let typed = |typ: Option<&str>| super::sign(&transmitter, typ, &good(json!({})));
    let whole = signed(json!({}));
    let (input, _) = whole.rsplit_once('.').unwrap();
    for (what, message, code, label) in [
        ("a stranger's", set(&Tokens::new(), &good(json!({}))), "invalid_key", "unknown_key"),
        ("signed by the issuer of the tokens", set(&edge.tokens, &good(json!({}))), "invalid_key", "unknown_key"),
        ("wrongly signed", format!("{input}.{}", "A".repeat(86)), "invalid_key", "bad_signature"),
        (
            "unsigned",
            format!("eyJhbGciOiJub25lIiwidHlwIjoic2VjZXZlbnQrand0In0.{}.", input.split('.').nth(1).unwrap()),
            "invalid_key",
            "algorithm_not_allowed",
        ),
        ("of another issuer", signed(json!({"iss": "https://other.test"})), "invalid_issuer", "unknown_issuer"),
        (
            "of the issuer of the tokens",
            signed(json!({"iss": doorward::dev::ISSUER})),
            "invalid_issuer",
            "unknown_issuer",
        ),
        ("for another audience", signed(json!({"aud": "other"})), "invalid_audience", "wrong_audience"),
        ("for nobody", signed(json!({"aud": null})), "invalid_request", "missing_claim"),
        ("without a type", typed(None), "invalid_request", "wrong_type"),
        ("of type JWT", typed(Some("JWT")), "invalid_request", "wrong_type"),
        ("a logout token", typed(Some("logout+jwt")), "invalid_request", "wrong_type"),
        ("an access token", token.clone(), "invalid_issuer", "unknown_issuer"),
        ("without jti", signed(json!({"jti": null})), "invalid_request", "missing_claim"),
        ("without iat", signed(json!({"iat": null})), "invalid_request", "missing_claim"),
        ("without events", signed(json!({"events": null})), "invalid_request", "missing_claim"),
        ("with no event", signed(json!({"events": {}})), "invalid_request", "invalid_claim"),
        ("an event that is none", signed(json!({"events": {(uri.clone()): 1}})), "invalid_request", "invalid_claim"),
        ("about nobody", signed(json!({"events": {(uri.clone()): {}}})), "invalid_request", "missing_claim"),
        ("expired", signed(json!({"iat": now() - 600, "exp": now() - 300})), "invalid_request", "expired"),
        ("of the future", signed(json!({"iat": now() + 600})), "invalid_request", "not_yet_valid"),
        (
            "larger than a token may be",
            signed(json!({"padding": "x".repeat(13_000)})),
            "invalid_request",
            "malformed_token",
        ),
        ("no JWT", "x".to_owned(), "invalid_request", "malformed_token"),
        ("nothing", String::new(), "invalid_request", "malformed_token"),
        ("two", format!("{whole}\n{whole}"), "invalid_request", "malformed_token"),
    ] {
        let before = edge.counted("signals_push", label).await;
        is_refused(what, &push(&edge, &message).await, 400, code);
        assert_eq!(edge.counted("signals_push", label).await, before + 1, "{what}");
    }
    let large = push(&edge, &signed(json!({"padding": "x".repeat(13_000)}))).await;
    assert!(large.body["description"].as_str().is_some_and(|text| text.contains("`token.max_bytes`")), "{large:?}");
    is_refused("too large", &push(&edge, &"x".repeat(30_000)).await, 413, "invalid_request");
    for media_type in ["application/jwt", "application/json", "application/x-www-form-urlencoded"] {
        is_refused(media_type, &send(edge.post(PATH, media_type, whole.clone())).await, 415, "invalid_request");
    }
    assert_eq!((edge.reason(&token).await.as_str(), edge.revocations().await), ("ok", 0));

    // An event without an effect, whether or not its type is known, is accepted and counted.
    for uri in [format!("{CAEP}device-compliance-change"), format!("{RISC}account-enabled"), "urn:example:x".to_owned()]
    {
        is_taken(
            &push(&edge, &set(&transmitter, &claims(&uri, json!({"subject": iss_sub("alice")}), &json!({})))).await,
        );
    }
    assert_eq!(edge.counted("signals_push", "ignored").await, 3);
    for (uri, event, label) in [
        (format!("{SSF}verification"), json!({"state": "what the operator asked with"}), "verified"),
        (format!("{SSF}stream-updated"), json!({"status": "paused"}), "stream_updated"),
    ] {
        is_taken(&push(&edge, &set(&transmitter, &claims(&uri, event, &json!({})))).await);
        assert_eq!(edge.counted("signals_push", label).await, 1);
    }
    assert_eq!((edge.reason(&token).await.as_str(), edge.revocations().await), ("ok", 0));
    is_taken(&edge.ends("credential-change", &token, push(&edge, &whole)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_applied_once_and_acknowledged_again() {
    let transmitter = Tokens::new();
    let edge = edge(&transmitter, "", "").await;
    let uri = format!("{CAEP}credential-change");
    let message = set(&transmitter, &claims(&uri, json!({"subject": iss_sub("alice")}), &json!({"iat": now() - 5})));
    let before = edge.tokens.of("alice");
    is_taken(&edge.ends("credential-change", &before, push(&edge, &message)).await);
    let after = edge.tokens.with(json!({"iat": now() - 2}));
    is_taken(&push(&edge, &message).await);
    assert_eq!((edge.reason(&after).await.as_str(), edge.counted("signals_push", "replayed").await), ("ok", 1));
    // Several events in one token.
    let both = json!({"events": {
        (uri.clone()): {"subject": iss_sub("bob")}, (format!("{RISC}account-disabled")): {"subject": iss_sub("carol")},
    }});
    is_taken(&push(&edge, &set(&transmitter, &claims(&uri, json!({}), &both))).await);
    for user in ["bob", "carol"] {
        assert_eq!(edge.reason(&edge.tokens.of(user)).await, "revoked");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transmitter_must_send_its_configured_token() {
    let transmitter = Tokens::new();
    let edge = edge(&transmitter, ", push: {token: push-secret-0123456789}", "").await;
    let (token, uri) = (edge.tokens.of("alice"), format!("{CAEP}credential-change"));
    let message = set(&transmitter, &claims(&uri, json!({"subject": iss_sub("alice")}), &json!({})));
    for wrong in [None, Some("Bearer push-secret-012345678"), Some("Basic push-secret-0123456789")] {
        let request = edge.post(PATH, TYPE, message.clone());
        let request = wrong.into_iter().fold(request, |request, wrong| request.header("authorization", wrong));
        let reply = send(request).await;
        is_refused("no or another token", &reply, 401, "authentication_failed");
        assert!(reply.header("www-authenticate").starts_with("Bearer "));
    }
    assert_eq!(edge.reason(&token).await, "ok");
    let right = edge.post(PATH, TYPE, message).bearer_auth("push-secret-0123456789");
    is_taken(&edge.ends("credential-change", &token, send(right)).await);
    assert!(!edge.doorward.logged("push-secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_transmitter_repeats_events_that_were_not_stored() {
    let (transmitter, mut redis) = (Tokens::new(), RedisServer::start(&[]).await);
    let store = format!("revocation: {{store: redis, redis: {{url: \"{}\"}}}}\n", redis.url());
    let edge = edge(&transmitter, "", &store).await;
    let uri = format!("{CAEP}credential-change");
    let message = set(&transmitter, &claims(&uri, json!({"subject": iss_sub("alice")}), &json!({})));
    redis.kill();
    let reply = push(&edge, &message).await;
    reply.is_problem(503, "not-taken", None);
    assert_eq!(reply.header("retry-after"), "1");
    redis.run().await;
    crate::support::eventually("the same token is taken", || async { push(&edge, &message).await.status == 202 }).await;
    assert_eq!(edge.counted("signals_push", "applied").await, 1);
}

/// Another instance accepts tokens for longer than the receiver of an event: the event is stored for both.
#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_old_by_the_longest_lifetime_of_all_instances() {
    let (tokens, transmitter, redis) = (Tokens::new(), Tokens::new(), RedisServer::start(&[]).await);
    let proxy = Proxy::start(redis.port);
    let config = |port: u16, lifetime: &str| {
        let store = format!("revocation: {{store: redis, redis: {{url: \"redis://127.0.0.1:{port}\"}}}}\n");
        let config = tokens.config(&format!("{store}{}", section(&transmitter, "")));
        config.replace("audiences:", &format!("max_lifetime: {lifetime}, leeway: 1s, audiences:"))
    };
    let long = Doorward::start(&config(redis.port, "24h")).await;
    let checks = Checks::connect(&long.check).await;
    let short = Doorward::start(&config(redis.port, "60s")).await;
    proxy.refuse();
    // This instance has not read the retention of the others.
    let unready = Doorward::launch(&config(proxy.port, "60s")).await;
    for (at, user) in [(&short, "alice"), (&unready, "bob")] {
        let token = tokens.with(json!({"sub": user, "iat": now() - 900, "exp": now() + 3_600}));
        assert_eq!(reason(&checks, &token).await, "ok");
        let event = json!({"subject": iss_sub(user), "event_timestamp": now() - 600});
        let set = set(&transmitter, &claims(&format!("{CAEP}credential-change"), event, &json!({})));
        let push = || {
            let request = reqwest::Client::new().post(format!("http://{}{PATH}", at.http));
            request.header("content-type", TYPE).body(set.clone()).send()
        };
        if user == "bob" {
            assert_eq!(push().await.unwrap().status(), 503, "it is to be sent again");
            proxy.heal();
            at.ready().await;
        }
        assert_eq!(push().await.unwrap().status(), 202);
        eventually(user, || async { reason(&checks, &token).await == "revoked" }).await;
    }
    // No instance accepts a token of two days ago.
    let event = json!({"subject": iss_sub("carol"), "event_timestamp": now() - 2 * 86_400});
    let old = set(&transmitter, &claims(&format!("{CAEP}credential-change"), event, &json!({})));
    let request = reqwest::Client::new().post(format!("http://{}{PATH}", short.http));
    assert_eq!(request.header("content-type", TYPE).body(old).send().await.unwrap().status(), 202);
    let stale = "doorward_inlet_events_total{inlet=\"signals_push\",result=\"stale\"}";
    assert_eq!(short.metric(stale).await, Some(1.0));
}
