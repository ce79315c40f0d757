//! The names of users in messages and operators' requests: those of the issuer's tokens, or they are
//! refused with the reason.

use serde_json::{Value, json};

use super::{Edge, changed, fresh_id, signals};
use crate::api::{OPERATOR, Reply, admin_keys, send};
use crate::support::tokens::{Tokens, now};

const TENANT: &str = "8eaef023-2b34-4da1-9baa-8bc8c9d6a490";
const CHANGE: &str = "https://schemas.openid.net/secevent/caep/event-type/credential-change";
const REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

/// An edge whose issuer has these settings instead of those before `keys`.
async fn edge(issuer: &str) -> Edge {
    let (tokens, keys) = (Tokens::new(), "keys: {jwks");
    let signals = signals::section(&tokens, ", subjects: [iss_sub, opaque]");
    let config = tokens.config(&format!("{signals}{}", admin_keys()));
    let (head, rest) = config.split_once(keys).unwrap();
    let own = format!("issuer: \"{}\", ", doorward::dev::ISSUER);
    let head = if issuer.contains("issuer: ") { head.replace(&own, "") } else { head.to_owned() };
    let config = format!("{head}{issuer}, {keys}{rest}");
    Edge::of(tokens, &config).await
}

async fn log_out(edge: &Edge, changes: &Value) -> Reply {
    let claims = json!({
        "iss": doorward::dev::ISSUER, "aud": "demo", "iat": now(), "exp": now() + 120, "jti": fresh_id(),
        "events": {"http://schemas.openid.net/event/backchannel-logout": {}},
    });
    let message = edge.sign(Some("logout+jwt"), &changed(&claims, changes));
    send(edge.form("/oidc/backchannel-logout", &[("logout_token", &message)])).await
}

async fn push(edge: &Edge, uri: &str, subject: Value) -> Reply {
    let claims = signals::claims(uri, json!({"subject": subject}), &json!({}));
    send(edge.post("/signals/events", "application/secevent+jwt", edge.sign(Some("secevent+jwt"), &claims))).await
}

async fn end_user(edge: &Edge, sub_id: Value) -> Reply {
    let body = json!({"sub_id": sub_id}).to_string();
    send(edge.post("/global-token-revocation", "application/json", body).bearer_auth(OPERATOR)).await
}

async fn revoke(edge: &Edge, kind: &str, id: Value) -> Reply {
    let body = json!({"kind": kind, "issuer": "dev", "id": id}).to_string();
    send(edge.post("/v1/revocations", "application/json", body).bearer_auth(OPERATOR)).await
}

#[track_caller]
fn names(what: &str, reply: &Reply, status: u16, words: &[&str]) {
    assert_eq!(reply.status, status, "{what}: {reply:?}");
    let text = reply.body.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{what}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_by_another_name_than_in_tokens_is_refused() {
    for user_id in ["[oid, sub]", "oid", "[/oid, /sub]"] {
        let edge = edge(&format!("claims: {{user_id: {user_id}}}")).await;
        let token = edge.tokens.with(json!({"sub": "pairwise", "oid": "alice", "sid": "s"}));
        let iss_sub = json!({"format": "iss_sub", "iss": doorward::dev::ISSUER, "sub": "pairwise"});
        let opaque = json!({"format": "opaque", "id": "pairwise"});
        names("logout", &log_out(&edge, &json!({"sub": "pairwise"})).await, 400, &["oid", "claims.user_id"]);
        for (what, uri, subject) in [
            ("iss_sub", CHANGE, &iss_sub),
            ("opaque", CHANGE, &opaque),
            ("iss_sub of a session", REVOKED, &iss_sub),
            ("complex", CHANGE, &json!({"user": iss_sub, "tenant": opaque})),
            ("aliases", CHANGE, &json!({"format": "aliases", "identifiers": [iss_sub, opaque]})),
        ] {
            names(what, &push(&edge, uri, subject.clone()).await, 400, &["oid", "claims.user_id"]);
        }
        names("global", &end_user(&edge, iss_sub.clone()).await, 400, &["oid", "claims.user_id"]);
        assert_eq!((edge.reason(&token).await.as_str(), edge.revocations().await), ("ok", 0), "{user_id}");

        // A message that names the user like the tokens, or the session alone, takes effect.
        let both = json!({"sub": "pairwise", "oid": "alice"});
        assert_eq!(edge.ends("oid in the logout token", &token, log_out(&edge, &both)).await.status, 200);
        let bob = edge.tokens.with(json!({"sub": "other", "oid": "bob", "sid": "of-bob"}));
        let session = json!({"sub": "other", "sid": "of-bob"});
        assert_eq!(edge.ends("sid beside sub", &bob, log_out(&edge, &session)).await.status, 200);
        let carol = edge.tokens.with(json!({"sub": "third", "oid": "carol", "sid": "of-carol"}));
        let named = push(&edge, REVOKED, json!({"format": "opaque", "id": "of-carol"}));
        assert_eq!(edge.ends("an opaque session", &carol, named).await.status, 202);
    }
    // Where the user wins over the session, and is not named as in tokens.
    let edge = edge("claims: {user_id: [oid, sub]}, backchannel_logout: {scope: user}").await;
    let reply = log_out(&edge, &json!({"sub": "pairwise", "sid": "s"})).await;
    names("scope: user", &reply, 400, &["oid", "claims.user_id"]);
    // `sub` before others: tokens that have it are named by it.
    let edge = self::edge("claims: {user_id: [sub, oid]}").await;
    let token = edge.tokens.with(json!({"oid": "x"}));
    assert_eq!(edge.ends("sub first", &token, log_out(&edge, &json!({"sub": "alice"}))).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_number_names_the_same_user_as_in_tokens() {
    let edge = edge("claims: {user_id: sub}").await;
    let token = |sub: Value, sid: Value| edge.tokens.with(json!({"sub": sub, "sid": sid}));
    let iss_sub = |sub: Value| json!({"format": "iss_sub", "iss": doorward::dev::ISSUER, "sub": sub});
    let large = json!(u64::MAX);
    let (one, two) = (token(json!(1), json!("a")), token(json!("x"), json!(2)));
    assert_eq!(edge.ends("logout by sub", &one, log_out(&edge, &json!({"sub": 1}))).await.status, 200);
    assert_eq!(edge.ends("logout by sid", &two, log_out(&edge, &json!({"sid": 2}))).await.status, 200);
    let (three, four) = (token(json!(3), json!("b")), token(json!("y"), json!(4)));
    assert_eq!(edge.ends("event, sub", &three, push(&edge, CHANGE, iss_sub(json!(3)))).await.status, 202);
    let session = json!({"session": {"format": "opaque", "id": 4}});
    assert_eq!(edge.ends("event, session", &four, push(&edge, REVOKED, session)).await.status, 202);
    let (five, six) = (token(json!(5), json!("c")), token(large.clone(), json!(-7)));
    assert_eq!(edge.ends("global", &five, end_user(&edge, iss_sub(json!(5)))).await.status, 204);
    assert_eq!(edge.ends("API", &six, revoke(&edge, "user", large)).await.status, 201);
    let seven = token(json!("z"), json!(-7));
    assert_eq!(edge.ends("API, session", &seven, revoke(&edge, "session", json!(-7))).await.status, 201);
    for id in [json!(7.5), json!(true), json!(["7"])] {
        names("no name", &revoke(&edge, "user", id).await, 422, &["text or a whole number"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_a_tenant_is_named_with_it() {
    let iss = format!("https://login.test/{TENANT}/v2.0");
    let edge = edge(&format!("issuer: \"https://login.test/{{tenant}}/v2.0\", tenants: [{TENANT}]")).await;
    let token = |user: &str| edge.tokens.with(json!({"iss": iss, "tid": TENANT, "sub": user, "sid": fresh_id()}));
    let alice = token("alice");
    assert_eq!(edge.reason(&alice).await, "ok");
    for id in ["alice", "auth0|alice", "other-tenant|alice", &format!("{TENANT}|"), "|alice", ""] {
        names(id, &revoke(&edge, "user", json!(id)).await, 422, &[if id.is_empty() { "empty" } else { "TENANT|USER" }]);
    }
    names("opaque", &push(&edge, CHANGE, json!({"format": "opaque", "id": "alice"})).await, 400, &["TENANT|USER"]);
    let senders = json!({"format": "iss_sub", "iss": "https://signals.test", "sub": "alice"});
    names("of the transmitter", &push(&edge, CHANGE, senders).await, 400, &["TENANT|USER"]);
    names("global", &end_user(&edge, json!({"format": "opaque", "id": "alice"})).await, 400, &["TENANT|USER"]);
    let without = log_out(&edge, &json!({"iss": iss, "sub": "alice"})).await;
    names("logout without tid", &without, 400, &["tid"]);
    assert_eq!((edge.reason(&alice).await.as_str(), edge.revocations().await), ("ok", 0));

    let whole = |user: &str| json!(format!("{TENANT}|{user}"));
    assert_eq!(edge.ends("API", &alice, revoke(&edge, "user", whole("alice"))).await.status, 201);
    let bob = token("bob");
    let named = json!({"format": "opaque", "id": whole("bob")});
    assert_eq!(edge.ends("opaque", &bob, push(&edge, CHANGE, named)).await.status, 202);
    let carol = token("carol");
    let named = json!({"format": "iss_sub", "iss": iss, "sub": "carol"});
    assert_eq!(edge.ends("iss_sub", &carol, push(&edge, CHANGE, named)).await.status, 202);
    let dave = token("dave");
    let named = json!({"format": "opaque", "id": whole("dave")});
    assert_eq!(edge.ends("global", &dave, end_user(&edge, named)).await.status, 204);
    let erin = token("erin");
    let named = json!({"iss": iss, "tid": TENANT, "sub": "erin"});
    assert_eq!(edge.ends("logout", &erin, log_out(&edge, &named)).await.status, 200);
    // Ids from answers and lists can be used in requests.
    let odd = token("a b");
    let receipt = revoke(&edge, "user", whole("a b")).await;
    assert_eq!(edge.reason(&odd).await, "revoked");
    assert_eq!(revoke(&edge, "user", receipt.body["id"].clone()).await.status, 201, "{receipt:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_message_names_the_claim_that_it_lacks() {
    let edge = edge("claims: {user_id: sub}").await;
    for (changes, claim) in [
        (json!({"iat": null}), "`iat`"),
        (json!({"jti": null}), "`jti`"),
        (json!({"aud": null}), "`aud`"),
        (json!({}), "`sid` or `sub`"),
        (json!({"sub": "a", "nonce": "n"}), "`nonce`"),
        (json!({"iss": null}), "`iss`"),
    ] {
        names(claim, &log_out(&edge, &changes).await, 400, &[claim]);
    }
    // An unsigned message gets no detail except that it has no issuer.
    let stranger = super::sign(&Tokens::new(), Some("logout+jwt"), &json!({"iss": doorward::dev::ISSUER}));
    let reply = send(edge.form("/oidc/backchannel-logout", &[("logout_token", &stranger)])).await;
    assert!(!reply.body["error_description"].as_str().unwrap().contains('`'), "{reply:?}");
    let claims = signals::claims(CHANGE, json!({}), &json!({"jti": null}));
    let set = edge.sign(Some("secevent+jwt"), &claims);
    names("event", &send(edge.post("/signals/events", "application/secevent+jwt", set)).await, 400, &["`jti`"]);
}
