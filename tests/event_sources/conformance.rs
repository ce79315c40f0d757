//! What the plans for receivers of the OpenID Foundation's conformance suite wait for
//! (`openid-ssf-receiver-test-plan`, `openid-ssf-receiver-caep-test-plan`), over push and poll, with a fixed token and
//! with the client credentials grant.

use serde_json::{Value, json};

use super::Edge;
use super::transmitter::{CAEP, Transmitter, UP};
use crate::api::{OPERATOR, READER, read, send};
use crate::support::doorward::run_with;
use crate::support::eventually;

const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type/";
const SSF: &str = "https://schemas.openid.net/secevent/ssf/event-type/";
const SECRET: &str = "p%st & secret-0123456789";

/// The credentials of a run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Auth {
    Fixed,
    Basic,
    Post,
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// How a transmitter delivers, and how Doorward authenticates there: the text before and within the section.
fn delivery(push: bool, auth: Auth, more: &str) -> (String, String) {
    let (client, token) = match auth {
        Auth::Fixed => (String::new(), ", token: management-token-0123456789"),
        Auth::Basic => (
            format!(
                "client_credentials: {{client_id: \"door:ward\", client_secret: \"{SECRET}\", scopes: [ssf.read, ssf.manage]}}, "
            ),
            "",
        ),
        Auth::Post => (
            format!(
                "client_credentials: {{client_id: \"door:ward\", client_secret: \"{SECRET}\", auth_method: client_secret_post, audience: \"urn:ssf\"}}, "
            ),
            "",
        ),
    };
    if push {
        let port = free_port(); // The transmitter needs Doorward's address before Doorward listens.
        let listen = format!("listen: {{check: \"127.0.0.1:0\", http: \"127.0.0.1:{port}\"}}\n");
        let url = format!("http://127.0.0.1:{port}/signals/events");
        let how =
            format!("{client}push: {{token: push-secret-0123456789}}, stream: {{push_url: \"{url}\"{token}{more}}}");
        (listen, how)
    } else {
        let polling = if auth == Auth::Fixed { "token: polling-token-0123456789, " } else { "" };
        let stream = format!("{token}{more}");
        let stream = stream.trim_start_matches(", ");
        (String::new(), format!("{client}poll: {{{polling}interval: 1s}}, stream: {{{stream}}}"))
    }
}

fn inlet(push: bool) -> &'static str {
    if push { "signals_push" } else { "signals_poll" }
}

/// `doorward signals …` of the command line.
fn command(edge: &Edge, args: &[&str]) -> (i32, String, String) {
    let server = format!("http://{}", edge.doorward.http);
    run_with(&[("DOORWARD_ADMIN_KEY", OPERATOR), ("DOORWARD_SERVER", &server)], &[&["signals"], args].concat(), "")
}

async fn the_only(edge: &Edge) -> Value {
    read(&edge.doorward, "/v1/signals", READER).await.body["transmitters"][0].clone()
}

fn calls(transmitter: &Transmitter, call: &str) -> usize {
    transmitter.state()["calls"].as_array().unwrap().iter().filter(|made| **made == call).count()
}

async fn handled(transmitter: &Transmitter, id: &str) -> Value {
    eventually("the event is acknowledged or refused", || async {
        let state = transmitter.state();
        state["acknowledged"].as_array().unwrap().contains(&json!(id)) || !state["refused"][id].is_null()
    })
    .await;
    transmitter.state()["refused"][id].clone()
}

async fn plan(push: bool, auth: Auth) {
    let Some(transmitter) = Transmitter::start() else { return };
    let what = format!("{}, {auth:?}", inlet(push));
    let (listen, how) = delivery(push, auth, "");
    let edge = transmitter.edge(&how, &listen).await;
    // Create, read by id, read the status, update it, verify.
    eventually("the stream is verified", || async { the_only(&edge).await["verified_at"].is_string() }).await;
    let state = transmitter.state();
    assert_eq!((&state["created"], &state["verifications"]), (&json!(1), &json!(1)), "{what}: {state}");
    for call in ["GET /stream", "POST /stream", "GET /stream?stream_id", "GET /status?stream_id", "POST /status"] {
        assert_eq!(calls(&transmitter, call), 1, "{what}: {call} {}", state["calls"]);
    }
    assert!(state["stream"]["delivery"]["endpoint_url"].is_string());
    // A verification event that the transmitter sends by itself.
    let stream = state["stream"]["stream_id"].as_str().unwrap().to_owned();
    let verification = |subject: &str, event: Value| json!({"sub_id": {"format": "opaque", "id": subject}, "events": {(format!("{SSF}verification")): event}});
    let sends = |claims: Value| transmitter.command(&json!({"event": claims})).as_str().unwrap().to_owned();
    let unsolicited = sends(verification(&stream, json!({})));
    assert_eq!(handled(&transmitter, &unsolicited).await, Value::Null, "{what}");
    // A state that nobody requested, and a subject that is another stream.
    let wrong = sends(verification(&stream, json!({"state": "made up"})));
    assert_eq!(handled(&transmitter, &wrong).await, "invalid_state", "{what}");
    let wrong = sends(verification("another-stream", json!({})));
    assert_eq!(handled(&transmitter, &wrong).await, "invalid_request", "{what}");

    // Each event that is requested, with each subject of the interoperability profile, and a complex one.
    let events: Vec<String> = serde_json::from_value(state["stream"]["events_requested"].clone()).unwrap();
    assert!(events.len() == 17 && events.contains(&format!("{RISC}account-disabled")), "{events:?}");
    let mut ids = Vec::new();
    for (number, uri) in events.iter().enumerate() {
        for format in ["iss_sub", "email", "complex"] {
            let user = format!("user-{number}-{format}");
            let token = edge.tokens.of(&user);
            assert_eq!(edge.reason(&token).await, "ok");
            let named = json!({"format": "iss_sub", "iss": doorward::dev::ISSUER, "sub": user});
            let subject = match format {
                "email" => json!({"format": "email", "email": format!("{user}@example.com")}),
                "complex" => json!({"format": "complex", "user": named, "tenant": {"format": "opaque", "id": "t"}}),
                _ => named,
            };
            let event = json!({
                "event_timestamp": crate::support::tokens::now(), "change_direction": "decrease", "attributes": ["active"],
                "data": {"active": false}, "initiating_entity": "policy",
            });
            ids.push((sends(json!({"sub_id": subject, "events": {(uri.clone()): event}})), token, uri, format));
        }
    }
    for (id, token, uri, format) in &ids {
        assert_eq!(handled(&transmitter, id).await, Value::Null, "{what}: {uri} {format}");
        eventually("it has its effect", || async { edge.reason(token).await == "revoked" }).await;
    }
    assert_eq!(the_only(&edge).await["events"]["applied"], json!(ids.len()), "{what}");
    // Events without effect are acknowledged.
    for uri in [format!("{CAEP}device-compliance-change"), format!("{RISC}opt-in"), format!("{CAEP}risk-level-change")]
    {
        let id = sends(json!({"sub_id": {"format": "email", "email": "a@example.com"}, "events": {uri: {}}}));
        assert_eq!(handled(&transmitter, &id).await, Value::Null);
    }

    // Invalid tokens, each with the error of RFC 8935 section 2.4.
    let beside = edge.tokens.of("bystander");
    let event = json!({
        "sub_id": {"format": "iss_sub", "iss": doorward::dev::ISSUER, "sub": "bystander"},
        "events": {(format!("{CAEP}session-revoked")): {}},
    });
    for (changes, tamper, code) in [
        (json!({}), "signature", "invalid_key"),
        (json!({}), "key", "invalid_key"),
        (json!({"iss": "https://other.test"}), "", "invalid_issuer"),
        (json!({"aud": "other"}), "", "invalid_audience"),
    ] {
        let event = super::changed(&event, &changes);
        let id = transmitter.command(&json!({"event": event, "tamper": tamper}));
        assert_eq!(handled(&transmitter, id.as_str().unwrap()).await, code, "{what}: {changes} {tamper}");
    }
    assert_eq!(edge.reason(&beside).await, "ok");
    // Pushed ones may be anybody's, unless their signature is right.
    let refused = the_only(&edge).await["events"]["refused"].as_u64();
    assert_eq!(refused, Some(if push { 3 } else { 6 }), "{what}");

    // The credentials, and the deletion.
    let grants = transmitter.state()["grants"].clone();
    match auth {
        Auth::Fixed => assert_eq!(grants, json!([])),
        Auth::Basic => {
            assert_eq!(grants, json!([{"method": "basic", "scope": "ssf.read ssf.manage", "audience": null}]));
        }
        Auth::Post => assert_eq!(grants, json!([{"method": "post", "scope": null, "audience": "urn:ssf"}])),
    }
    let (code, out, _) = command(&edge, &["status"]);
    assert!(code == 0 && out.contains("signals.1  enabled") && out.contains(&stream), "{out}");
    let misspelt = format!("http://{}/v1/signals/signals.1?recrate=true", edge.doorward.http);
    let refused = send(reqwest::Client::new().delete(misspelt).bearer_auth(OPERATOR)).await;
    refused.is_problem(400, "invalid-parameter", None);
    let (code, out, error) = command(&edge, &["delete", "signals.1"]);
    assert_eq!(
        (code, out.as_str()),
        (0, format!("deleted: the stream {stream}; it is not set up again\n").as_str()),
        "{error}"
    );
    assert_eq!(transmitter.state()["deleted"], json!([stream]), "{what}");
    eventually("it is not up", || async { edge.doorward.metric(UP).await == Some(0.0) }).await;
    assert!(command(&edge, &["status"]).1.contains("signals.1  deleted"));
    edge.doorward.process.signal("HUP");
    edge.doorward.logs("configuration reloaded").await;
    eventually("it stays deleted", || async { the_only(&edge).await["state"] == "deleted" }).await;
    assert_eq!(transmitter.state()["created"], 1, "{what}");
    let (code, out, _) = command(&edge, &["delete", "signals.1", "--recreate"]);
    assert_eq!((code, out.as_str()), (0, "there was no stream; another one is set up\n"));
    eventually("another is set up", || async { edge.doorward.metric(UP).await == Some(1.0) }).await;
    assert_eq!(transmitter.state()["created"], 2, "{what}");
    for secret in ["push-secret", "management-token", "granted-", "secret-0123456789"] {
        assert!(!edge.doorward.logged(secret), "{what}: {secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plans_pass_over_push_with_a_fixed_token() {
    plan(true, Auth::Fixed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plans_pass_over_push_with_the_grant() {
    plan(true, Auth::Post).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plans_pass_over_poll_with_a_fixed_token() {
    plan(false, Auth::Fixed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plans_pass_over_poll_with_the_grant() {
    plan(false, Auth::Basic).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_the_grant_is_renewed_before_its_end_and_replaced_when_it_is_refused() {
    let Some(transmitter) = Transmitter::start() else { return };
    transmitter.set(&json!({"lifetime": 5}));
    let (_, how) = delivery(false, Auth::Basic, "");
    let edge = transmitter.edge(&how, "").await;
    eventually("the stream is up", || async { edge.doorward.metric(UP).await == Some(1.0) }).await;
    assert_eq!(transmitter.state()["grants"].as_array().unwrap().len(), 1, "all requests of the start share one");
    let grants = || transmitter.state()["grants"].as_array().unwrap().len();
    eventually("it is renewed twice", || async { grants() >= 3 }).await;
    assert_eq!(transmitter.state()["unauthorized"], 0, "no request carried an expired token");
    // A token that lives long is refused: it is replaced once, and the poll goes on without a failure.
    transmitter.set(&json!({"lifetime": 3600}));
    eventually("it has one that lives long", || async {
        transmitter.state()["lifetimes"].as_array().unwrap().last() == Some(&json!(3600))
    })
    .await;
    let before = grants();
    let seen = transmitter.state()["polls"].as_u64().unwrap();
    transmitter.set(&json!({"withdrawn": true}));
    eventually("polls go on", || async { transmitter.state()["polls"].as_u64().unwrap() >= seen + 3 }).await;
    assert_eq!((grants(), &transmitter.state()["unauthorized"]), (before + 1, &json!(1)));
    let fails = "doorward_signals_requests_total{operation=\"poll\",result=\"failed\"}";
    assert_eq!(edge.doorward.metric(fails).await, None);
    assert_eq!(edge.doorward.metric(UP).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_named_and_not_shown() {
    let Some(transmitter) = Transmitter::start() else { return };
    let how = "client_credentials: {client_id: doorward, client_secret: wrong-secret-0123456789}, poll: {}, stream: {}";
    let edge = transmitter.edge(how, "").await;
    eventually("it is unreachable", || async { the_only(&edge).await["state"] == "unreachable" }).await;
    let problem = the_only(&edge).await["problem"].as_str().unwrap().to_owned();
    assert_eq!(problem, "set up the stream: request a token: answered 401");
    let (code, out, _) = command(&edge, &["status"]);
    assert!(code == 0 && out.contains("signals.1  unreachable") && out.contains(&problem), "{out}");
    assert!(!edge.doorward.logged("wrong-secret"));
    // Another authorization server than that of the metadata.
    let how = how.replace("doorward,", "doorward, authorization_server: \"http://127.0.0.1:1\",");
    let edge = transmitter.edge(&how, "").await;
    eventually("it is unreachable", || async { the_only(&edge).await["state"] == "unreachable" }).await;
    assert!(the_only(&edge).await["problem"].as_str().unwrap().contains("metadata of the authorization server"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_another_issuer_is_not_used() {
    let Some(transmitter) = Transmitter::start() else { return };
    transmitter.set(&json!({"foreign": true}));
    let (_, how) = delivery(false, Auth::Fixed, "");
    let edge = transmitter.edge(&how, "").await;
    eventually("it is deleted", || async {
        transmitter.state()["deleted"].as_array().is_some_and(|all| !all.is_empty())
    })
    .await;
    let state = transmitter.state();
    assert_eq!((&state["polls"], &state["verifications"]), (&json!(0), &json!(0)), "{state}");
    assert_eq!(edge.doorward.metric(UP).await, Some(0.0));
    edge.doorward.logs("`iss` of the stream differs").await;
    transmitter.set(&json!({"foreign": false}));
    eventually("its own is used", || async { edge.doorward.metric(UP).await == Some(1.0) }).await;
}

/// Other receivers' streams stand beside Doorward's: it neither changes them, nor polls, nor deletes them.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_another_audience_is_not_used() {
    let Some(transmitter) = Transmitter::start() else { return };
    let other = |id: &str, aud: Value| {
        let url = format!("http://127.0.0.1:{}/poll-of-others", transmitter.0.port);
        let delivery = json!({"method": "urn:ietf:rfc:8936", "endpoint_url": url});
        json!({"stream_id": id, "iss": transmitter.issuer(), "aud": aud, "delivery": delivery, "events_requested": []})
    };
    let others = ["other-receiver", "doorward/", "Doorward"].map(|aud| other(aud, json!(aud)));
    let lists = [json!(["other-receiver", "x"]), Value::Null, json!(5)].map(|aud| other("listed", aud));
    let others = [others, lists].concat();
    transmitter.set(&json!({"others": others, "audience": ["other-receiver"]}));
    let (_, how) = delivery(false, Auth::Fixed, "");
    let edge = transmitter.edge(&how, "").await;
    // One that was created for another audience is deleted again.
    edge.doorward.logs("`aud` of the stream does not name the configured audience").await;
    eventually("it is deleted", || async {
        transmitter.state()["deleted"].as_array().is_some_and(|all| !all.is_empty())
    })
    .await;
    assert!(the_only(&edge).await["problem"].as_str().unwrap().contains("`aud` of the stream"));
    transmitter.set(&json!({"audience": ["x", "doorward"]}));
    eventually("its own is used", || async { edge.doorward.metric(UP).await == Some(1.0) }).await;
    let id = transmitter.state()["stream"]["stream_id"].clone();
    assert_eq!(the_only(&edge).await["stream_id"], id);
    let (code, _, error) = command(&edge, &["delete", "signals.1"]);
    assert_eq!((code, transmitter.state()["deleted"].as_array().unwrap().last()), (0, Some(&id)), "{error}");
    // Without a record it is to be found: there is none.
    let (_, out, _) = command(&edge, &["delete", "signals.1"]);
    assert_eq!(out, "there was no stream; it is not set up again\n");
    let calls = transmitter.state()["calls"].clone();
    assert!(!calls.as_array().unwrap().contains(&json!("PATCH /stream")), "{calls}");
}

/// Each attempt may leave a stream at the transmitter.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_id_cannot_be_read_is_not_created_again_at_once() {
    let Some(transmitter) = Transmitter::start() else { return };
    transmitter.set(&json!({"vague": true}));
    let (_, how) = delivery(false, Auth::Fixed, "");
    let edge = transmitter.edge(&how, "").await;
    edge.doorward.logs("no `stream_id` of 1 to 1024 bytes").await;
    assert!(edge.doorward.logged("\"pause\":\"60s\""));
    assert_eq!((&transmitter.state()["created"], edge.doorward.metric(UP).await), (&json!(1), Some(0.0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_transmitter_says_of_the_stream_counts() {
    let Some(transmitter) = Transmitter::start() else { return };
    let (_, how) = delivery(false, Auth::Fixed, ", silent_after: 1s");
    let edge = transmitter.edge(&how, "").await;
    let is = |state: &'static str, up: f64| {
        let edge = &edge;
        async move {
            let what = format!("it is {state}");
            eventually(&what, || async {
                the_only(edge).await["state"] == state && edge.doorward.metric(UP).await == Some(up)
            })
            .await;
        }
    };
    is("enabled", 1.0).await;
    // Announced by the transmitter.
    let stream = transmitter.state()["stream"]["stream_id"].clone();
    let announce = |status: &str| {
        let event = json!({"status": status, "reason": "maintenance"});
        let claims =
            json!({"sub_id": {"format": "opaque", "id": stream}, "events": {(format!("{SSF}stream-updated")): event}});
        transmitter.command(&json!({"event": claims}));
    };
    for status in ["paused", "disabled"] {
        announce(status);
        is(status, 0.0).await;
        // One of ten minutes ago arrives late.
        let late = json!({"sub_id": {"format": "opaque", "id": stream}, "iat": crate::support::tokens::now() - 600,
            "events": {(format!("{SSF}stream-updated")): {"status": "enabled"}}});
        let late = transmitter.command(&json!({"event": late}));
        assert_eq!(handled(&transmitter, late.as_str().unwrap()).await, Value::Null);
        is(status, 0.0).await;
        let (code, text) = edge.doorward.get("/readyz").await;
        assert!(code == 200 && text.contains(&format!("signals.1 is {status}")), "{text}");
        announce("enabled");
        is("enabled", 1.0).await;
    }
    assert!(!edge.doorward.get("/readyz").await.1.contains("signals.1"));
    // Read from the transmitter: it is requested to enable the stream, and may refuse.
    transmitter.set(&json!({"mulish": true}));
    transmitter.command(&json!({"status": "paused"}));
    edge.doorward.process.signal("HUP");
    is("paused", 0.0).await;
    edge.doorward.logs("the transmitter does not enable the stream").await;
    transmitter.set(&json!({"mulish": false}));
    edge.doorward.process.signal("HUP");
    is("enabled", 1.0).await;
    assert_eq!(transmitter.state()["status"], "enabled");
    // Silent: a verification event that does not come, or that names another state or stream.
    let verified_anew = async || {
        let before = transmitter.state()["verifications"].as_u64();
        edge.doorward.process.signal("HUP");
        eventually("it is to be verified", || async { transmitter.state()["verifications"].as_u64() > before }).await;
    };
    for switches in [json!({"mute": true}), json!({"wrong": "state"}), json!({"wrong": "subject"})] {
        transmitter.set(&switches);
        verified_anew().await;
        is("silent", 0.0).await;
        transmitter.set(&json!({"mute": false}));
        verified_anew().await;
        is("enabled", 1.0).await;
    }
    assert!(edge.doorward.logged("its events do not arrive"));
    assert!(the_only(&edge).await["verified_at"].is_string());
    assert_eq!(transmitter.state()["created"], 1, "one stream all along");
}
