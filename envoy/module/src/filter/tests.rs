use std::time::Duration;

use doorward::dev::{AUDIENCE, DevIssuer, ISSUER};
use serde_json::{Value, json};

use super::*;
use crate::host::Host;

struct Fixture {
    issuer: DevIssuer,
    config: Arc<FilterConfig>,
}

impl Fixture {
    /// `name`: the identity of the engine.
    fn new(name: &str) -> Self {
        let issuer = DevIssuer::generate().unwrap();
        let inline = json!({
            "listen": {"http": null},
            "revocation": {"store": "embedded"},
            "token": {"forward": false, "from": [{"header": "authorization", "scheme": "Bearer"}, {"query": "token"}]},
            "issuers": [{"name": "dev", "issuer": ISSUER, "audiences": [AUDIENCE], "keys": {"jwks": issuer.jwks()}}],
            "rules": [
                {"name": "leave", "match": {"path": "/leave"}, "access": "sign_out"},
                {"name": "bills", "match": {"path": "/bills"}},
                {"name": "trial", "match": {"path": "/trial"}, "enforce": false, "require": {"scopes": ["none"]}},
            ],
        });
        let text = json!({ "inline": inline }).to_string();
        Self { issuer, config: Arc::new(FilterConfig::new(name, text.as_bytes(), false).unwrap()) }
    }

    fn token(&self, user: &str) -> String {
        let now = doorward::clock::now().as_secs();
        let claims =
            json!({"iss": ISSUER, "aud": AUDIENCE, "sub": user, "jti": user, "iat": now - 9, "exp": now + 600});
        self.issuer.mint(&claims).unwrap()
    }

    fn filter(&self) -> Filter {
        Filter::new(self.config.clone())
    }
}

/// A request in Envoy's form; `more` may be between a token and its uses.
fn request(target: &str, more: &[(&str, &str)]) -> Box<Host> {
    let pseudo = [(":method", "GET"), (":path", target), (":authority", "shop.example.com")];
    Host::new(&[&pseudo, more].concat())
}

#[test]
fn edits_are_made_from_what_was_owned() {
    let fixture = Fixture::new("edits");
    let bearer = format!("Bearer {}", fixture.token("alice"));
    for _ in 0..2 {
        // The second time from the encoding kept with the token.
        let host = request(
            "/orders?b=1&token=",
            &[("x-user-id", "root"), ("authorization", &bearer), ("x_user_id", "root"), ("x-other", "stays")],
        );
        let filter = fixture.filter();
        assert_eq!(filter.request_headers(host.stream(), None, true), Status::Continue);
        assert_eq!(host.header("x-user-id").as_deref(), Some("alice"));
        assert_eq!(host.header("x_user_id"), None);
        assert_eq!(host.header("authorization"), None);
        assert_eq!(host.header("x-other").as_deref(), Some("stays"));
        let state = host.state.borrow();
        assert_eq!(state[0].0, "doorward");
        let facts: Value = serde_json::from_slice(&state[0].1).unwrap();
        assert_eq!((&facts["decision"], &facts["user_id"]), (&json!("allowed"), &json!("alice")));
    }
}

/// The facts that are kept with a token are those of its first decision.
#[test]
fn each_rule_has_its_own_facts_of_a_token() {
    let fixture = Fixture::new("facts");
    let [bills, trial, orders] =
        [("/bills", "bills", "ok"), ("/trial", "trial", "insufficient_scope"), ("/", "default", "ok")];
    for (user, order) in [("grace", [bills, trial, orders, bills]), ("ivan", [trial, bills, orders, trial])] {
        let bearer = format!("Bearer {}", fixture.token(user));
        for (path, rule, reason) in order {
            let host = request(path, &[("authorization", &bearer)]);
            assert_eq!(fixture.filter().request_headers(host.stream(), None, true), Status::Continue);
            let facts: Value = serde_json::from_slice(&host.state.borrow()[0].1).unwrap();
            let found = ["rule", "reason", "issuer", "user_id", "token_id"].map(|name| facts[name].clone());
            assert_eq!(found, [rule, reason, "dev", user, user].map(Value::from), "{path}");
            assert_eq!(facts["decision"] == "shadow", rule == "trial");
        }
    }
}

/// Rules that cannot be decided inside Envoy are refused before they are in force.
#[test]
fn rules_for_mcp_messages_are_refused_when_they_are_loaded() {
    let issuer = DevIssuer::generate().unwrap();
    let inline = json!({
        "listen": {"http": null},
        "revocation": {"store": "embedded"},
        "issuers": [{"name": "dev", "issuer": ISSUER, "audiences": [AUDIENCE], "keys": {"jwks": issuer.jwks()}}],
        "rules": [{"name": "pay", "match": {"path": "/mcp", "mcp": {"tools": ["pay_*"]}}}],
    });
    for validates in [false, true] {
        let refused = FilterConfig::new("mcp", json!({ "inline": inline }).to_string().as_bytes(), validates);
        let fault = refused.err().unwrap();
        assert!(fault.contains("the rule `pay` has `match.mcp`"), "{fault}");
    }
}

#[test]
fn a_refusal_is_an_answer_with_its_grpc_status() {
    let fixture = Fixture::new("refusal");
    for (content_type, status) in [("application/grpc", Some("16")), ("application/json", None)] {
        let host = request("/", &[("content-type", content_type)]);
        assert_eq!(fixture.filter().request_headers(host.stream(), None, true), Status::StopIteration);
        let answered = host.answered.borrow();
        let (code, headers, body, details) = answered.as_ref().unwrap();
        assert_eq!((*code, details.as_str()), (401, "doorward_missing_token"));
        assert!(body.contains("missing_token"), "{body}");
        let found = headers.iter().find(|(name, _)| name == "grpc-status").map(|(_, value)| value.as_str());
        assert_eq!(found, status);
    }
    let host = request("/", &[("authorization", "Bearer x")]);
    let status = fixture.filter().request_headers(host.stream(), Some("no-such-rule"), true);
    assert_eq!((status, host.answered.borrow().as_ref().unwrap().0), (Status::StopIteration, 400));
}

#[test]
fn a_sign_out_waits_for_the_store_and_goes_on() {
    let fixture = Fixture::new("sign-out");
    let bearer = format!("Bearer {}", fixture.token("bob"));
    let host = request("/leave", &[("authorization", &bearer)]);
    let filter = fixture.filter();
    assert_eq!(filter.request_headers(host.stream(), None, true), Status::StopAllIterationAndWatermark);
    assert_eq!(host.wakers.get(), 1);
    while !host.resumed.get() {
        std::thread::sleep(Duration::from_millis(1));
        filter.scheduled(host.stream());
    }
    assert_eq!(host.header("x-user-id").as_deref(), Some("bob"));
    assert_eq!(host.wakers.get(), 0, "it is deleted with the answer");
    let host = request("/", &[("authorization", &bearer)]);
    assert_eq!(fixture.filter().request_headers(host.stream(), None, true), Status::StopIteration);
    assert_eq!(host.answered.borrow().as_ref().unwrap().3, "doorward_signed_out");
}

/// The thread of the test is the worker.
#[test]
fn a_flood_of_bad_signatures_is_verified_elsewhere_and_known_tokens_here() {
    let fixture = Fixture::new("flood");
    let known = format!("Bearer {}", fixture.token("henry"));
    let ask = |bearer: &str| {
        let (host, filter) = (request("/", &[("authorization", bearer)]), fixture.filter());
        let status = filter.request_headers(host.stream(), None, true);
        (host, filter, status)
    };
    assert_eq!(ask(&known).2, Status::Continue);
    let signed = fixture.token("henry");
    let bad = format!("Bearer {}.{}", signed.rsplit_once('.').unwrap().0, "A".repeat(86));
    let parked = (0..100_000).map(|_| ask(&bad)).find(|(_, _, status)| *status != Status::StopIteration);
    let (host, filter, status) = parked.expect("a worker's budget ends");
    assert_eq!(status, Status::StopAllIterationAndWatermark);
    assert_eq!(ask(&known).2, Status::Continue, "nothing is verified for it");
    while host.answered.borrow().is_none() {
        std::thread::sleep(Duration::from_millis(1));
        filter.scheduled(host.stream());
    }
    assert_eq!(host.answered.borrow().as_ref().unwrap().3, "doorward_bad_signature");
}

/// A good token that no worker has seen waits for its turn behind a flood, and is accepted.
#[test]
fn a_new_token_is_accepted_amid_a_flood() {
    let fixture = Fixture::new("amid");
    let signed = fixture.token("ida");
    let bad = format!("Bearer {}.{}", signed.rsplit_once('.').unwrap().0, "A".repeat(86));
    let filters: Vec<_> = (0..200)
        .map(|number| {
            let bearer =
                if number % 20 == 19 { format!("Bearer {}", fixture.token(&number.to_string())) } else { bad.clone() };
            let (host, filter) = (request("/", &[("authorization", &bearer)]), fixture.filter());
            let status = filter.request_headers(host.stream(), None, true);
            (number, host, filter, status)
        })
        .collect();
    assert!(filters.iter().any(|(_, _, _, status)| *status == Status::StopAllIterationAndWatermark));
    for (number, host, filter, status) in &filters {
        while *status == Status::StopAllIterationAndWatermark && host.answered.borrow().is_none() && !host.resumed.get()
        {
            std::thread::sleep(Duration::from_millis(1));
            filter.scheduled(host.stream());
        }
        let is_accepted = *status == Status::Continue || host.resumed.get();
        assert_eq!(is_accepted, number % 20 == 19, "{number}");
    }
}

#[test]
fn a_filter_that_goes_takes_its_wakers_along() {
    let fixture = Fixture::new("gone");
    // First, because a new token waits for its turn when those below, which are refused, took a slow machine long.
    let host = request("/", &[("authorization", &format!("Bearer {}", fixture.token("fred")))]);
    let filter = fixture.filter();
    assert_eq!(filter.request_headers(host.stream(), None, false), Status::Continue);
    assert_eq!(host.wakers.get(), 1, "a request without an end is a stream");
    filter.leave();
    assert_eq!(host.wakers.get(), 0);
    for user in ["carla", "dora", "eve"] {
        let host = request("/leave", &[("authorization", &format!("Bearer {}", fixture.token(user)))]);
        let filter = fixture.filter();
        assert_eq!(filter.request_headers(host.stream(), None, true), Status::StopAllIterationAndWatermark);
        drop(filter);
        assert_eq!(host.wakers.get(), 0);
        // The client has disconnected, and is signed out all the same.
        let bearer = format!("Bearer {}", fixture.token(user));
        let ask = || fixture.filter().request_headers(request("/", &[("authorization", &bearer)]).stream(), None, true);
        while ask() != Status::StopIteration {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn a_revocation_ends_the_stream_of_its_token() {
    let fixture = Fixture::new("stream");
    let bearer = format!("Bearer {}", fixture.token("gina"));
    let host = request("/", &[("authorization", &bearer)]);
    let filter = fixture.filter();
    assert_eq!(filter.request_headers(host.stream(), None, true), Status::Continue);
    host.begin_response(&[("content-length", "10")]);
    filter.response_headers(host.stream(), false);
    assert_eq!(host.wakers.get(), 0, "a short answer is on its way");
    let (host, filter) = (request("/", &[("authorization", &bearer)]), fixture.filter());
    assert_eq!(filter.request_headers(host.stream(), None, true), Status::Continue);
    host.begin_response(&[("content-type", "text/event-stream")]);
    filter.response_headers(host.stream(), false);
    filter.scheduled(host.stream());
    assert_eq!((host.ended.borrow().clone(), host.wakers.get()), (None, 1), "woken for nothing, it goes on");
    let (leaving, signing_out) = (request("/leave", &[("authorization", &bearer)]), fixture.filter());
    assert_eq!(signing_out.request_headers(leaving.stream(), None, true), Status::StopAllIterationAndWatermark);
    while host.ended.borrow().is_none() {
        std::thread::sleep(Duration::from_millis(1));
        filter.scheduled(host.stream());
    }
    assert_eq!(host.ended.borrow().as_deref(), Some("doorward_stream_signed_out"));
    assert_eq!(host.state.borrow().last().unwrap(), &("doorward.ended".to_owned(), b"signed_out".to_vec()));
    assert_eq!(host.wakers.get(), 0);
}
