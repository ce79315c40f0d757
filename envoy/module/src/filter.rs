//! One stream: its request is read, decided, and changed, answered, or made to wait; later the stream is ended when
//! its token is not accepted any more.
//!
//! Envoy calls hooks of a filter from within its own calls to Envoy. So a filter is shared, never borrowed mutably.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::task::{Context, Poll};

use doorward::api::streams::{count_end, register};
use doorward::api::{Flaw, Query, decide, decide_at_once, refuse};
use doorward::authz::answer::Responder;
use doorward::authz::authorizer::Decision;
use doorward::authz::denial::Denial;
use doorward::authz::rule::RequestView;
use doorward::authz::stream_proof::StreamFacts;
use doorward::engine::Hosted;
use doorward::sources::streams::{Ended, LiveStream};

use crate::abi::{Headers, Status, Stream, Waker};
use crate::budget;
use crate::config::{Facts, FilterConfig};
use crate::plan::{BROKEN, BROKEN_BODY, BROKEN_DETAILS, BROKEN_HEADERS, Form, Plan, Subject, Then};
use crate::request::{OwnedRequest, Request, detail, is_grpc};
use crate::slot::Slot;

/// The filter of one stream.
pub struct Filter {
    config: Arc<FilterConfig>,
    /// The slot for the answer to a waiting decision.
    waiting: RefCell<Option<Arc<Slot<Waker, Plan>>>>,
    /// Headers of the response, unless the upstream sets them.
    response: Cell<Vec<(&'static str, String)>>,
    /// The subject of the stream, until it is registered as a lasting one.
    subject: Cell<Option<Subject>>,
    live: RefCell<Option<Live>>,
    /// The request has a body of unknown length: it is a stream from its beginning.
    lasts: Cell<bool>,
}

/// A stream that ends when its token is not accepted any more.
struct Live {
    slot: Arc<Slot<Waker, ()>>,
    /// `Err`: the token was not accepted when the stream was registered.
    stream: Result<LiveStream, Ended>,
}

/// A response of at most this many bytes is not ended: it is nearly complete.
const SHORT: u64 = 64 * 1024;

impl Filter {
    pub fn new(config: Arc<FilterConfig>) -> Self {
        let (waiting, live) = (RefCell::default(), RefCell::default());
        Self { config, waiting, response: Cell::default(), subject: Cell::default(), live, lasts: Cell::default() }
    }

    /// Decides a request whose head has arrived; `rule`: the name from its route.
    pub fn request_headers(&self, stream: Stream<'_>, rule: Option<&str>, is_whole: bool) -> Status {
        let Some(engine) = self.config.engine() else { return refuse_broken(stream) };
        self.lasts.set(!is_whole && stream.header(Headers::Request, "content-length").is_none());
        match self.decide(engine, &stream, rule) {
            Decided::Now(plan) => self.carry_out(engine, plan, stream, false),
            Decided::Later => Status::StopAllIterationAndWatermark,
            Decided::Never => refuse_broken(stream),
        }
    }

    fn decide(&self, engine: &Hosted, stream: &Stream<'_>, rule: Option<&str>) -> Decided {
        let (state, facts) = (engine.state(), self.config.facts);
        let is_grpc = stream.header(Headers::Request, "content-type").is_some_and(is_grpc);
        let put = move |responder: &Responder, decision: &Decision<'_>, request: &RequestView<'_>| {
            Plan::new(responder, decision, request, Form { facts, is_grpc })
        };
        let headers = stream.headers(engine.limits().request_headers);
        let request = headers.as_deref().map_err(|unreadable| detail(*unreadable));
        let request = match request.and_then(|headers| Request::read(headers, rule, stream.source_address())) {
            Ok(request) => request,
            Err(detail) => {
                let flaw = Flaw { detail, request: &RequestView::NOTHING };
                return Decided::Now(refuse(state, Denial::BadRequest, Some(flaw), put));
            }
        };
        let view = request.view();
        let query = Query::new(state, &view);
        let in_turn = !budget::is_left(query.started());
        let refused_anew = Cell::new(false);
        let plan =
            decide_at_once(if in_turn { query.verified_in_turn() } else { query }, |responder, decision, request| {
                refused_anew.set(budget::counts(decision));
                put(responder, decision, request)
            });
        if let Some(plan) = plan {
            if refused_anew.get() {
                budget::charge(query.started());
            }
            return Decided::Now(plan);
        }
        let Some(waker) = stream.waker() else { return Decided::Never };
        let slot = Arc::new(Slot::new(waker));
        *self.waiting.borrow_mut() = Some(slot.clone());
        let (state, request, mut answer) = (state.clone(), OwnedRequest::of(&request), Answering(Some(slot)));
        engine.spawn(async move {
            let headers = request.headers();
            let view = request.view(&headers);
            let query = Query::new(&state, &view);
            let plan = decide(if in_turn { query.verified_in_turn() } else { query }, put).await;
            answer.with(plan);
        });
        Decided::Later
    }

    /// Applies a plan; `is_parked`: the request was stopped before.
    fn carry_out(&self, engine: &Hosted, plan: Plan, mut stream: Stream<'_>, is_parked: bool) -> Status {
        let is_changed = plan.edits();
        match plan.apply(&mut stream, &self.config.namespace) {
            Then::Continue { response, subject } => {
                self.response.set(response);
                if self.config.ends_streams {
                    self.subject.set(subject);
                }
                if self.lasts.get() {
                    self.watch(engine, &stream);
                }
                if is_changed && self.config.clear_route_cache {
                    stream.clear_route_cache();
                }
                if is_parked {
                    stream.resume();
                }
                Status::Continue
            }
            Then::Respond { answer, details } => {
                let headers: Vec<_> = answer.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
                stream.respond(answer.status, &headers, &answer.body, &details);
                Status::StopIteration
            }
        }
    }

    /// Registers the stream, if it has an identity and its rule ends streams.
    fn watch(&self, engine: &Hosted, stream: &Stream<'_>) {
        let Some(Subject { token, rule }) = self.subject.take() else { return };
        let Some(waker) = stream.waker() else { return };
        let (state, slot) = (engine.state(), Arc::new(Slot::new(waker)));
        let policy = state.policy();
        let rule = policy.authorizer.rules.named(&rule).unwrap_or(&policy.authorizer.default_rule);
        let registered = register(state, &policy, rule, StreamFacts::of(&token)).map_err(Ended::now);
        *self.live.borrow_mut() = Some(Live { slot: slot.clone(), stream: registered });
        if self.poll_ended().is_ready() {
            slot.put(()); // Ended soon, and not within a hook that Envoy expects to return.
        }
    }

    /// The response begins; `is_whole`: without a body.
    pub fn response_headers(&self, mut stream: Stream<'_>, is_whole: bool) {
        for (name, value) in self.response.take() {
            if stream.header(Headers::Response, name).is_none() {
                stream.set_header(Headers::Response, name.as_bytes(), Some(value.as_bytes()));
            }
        }
        let Some(engine) = self.config.engine().filter(|_| !is_whole) else { return };
        let length = stream.header(Headers::Response, "content-length");
        let length = length.and_then(|text| std::str::from_utf8(text).ok()?.parse::<u64>().ok());
        if length.is_none_or(|length| length > SHORT) {
            self.watch(engine, &stream);
        }
    }

    /// Another thread has woken the stream.
    pub fn scheduled(&self, mut stream: Stream<'_>) {
        let Some(engine) = self.config.engine() else { return };
        let waiting = self.waiting.borrow().clone();
        if let Some(plan) = waiting.and_then(|slot| slot.take()) {
            self.leave_waiting();
            self.carry_out(engine, plan, stream, true);
            return;
        }
        let Poll::Ready(ended) = self.poll_ended() else { return };
        let live = self.live.borrow_mut().take();
        if let Some(live) = &live {
            live.slot.leave();
        }
        count_end(engine.state(), ended);
        let cause = ended.cause.label();
        publish_end(&mut stream, &self.config, cause);
        stream.end(&format!("doorward_stream_{cause}"));
        drop(live); // The order has been carried out.
    }

    /// Ready if the stream is registered and has to end.
    fn poll_ended(&self) -> Poll<Ended> {
        match &*self.live.borrow() {
            None => Poll::Pending,
            Some(Live { slot, stream: Ok(stream) }) => {
                stream.poll_ended(&mut Context::from_waker(&slot.clone().into()))
            }
            Some(Live { stream: Err(ended), .. }) => Poll::Ready(*ended),
        }
    }

    fn leave_waiting(&self) {
        if let Some(slot) = self.waiting.borrow_mut().take() {
            slot.leave();
        }
    }

    /// The stream has ended, or another filter answers it: other threads must not access it any more.
    pub fn leave(&self) {
        self.leave_waiting();
        let live = self.live.borrow_mut().take();
        if let Some(live) = live {
            live.slot.leave();
        }
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        self.leave();
        crate::faults::meet("drop");
    }
}

enum Decided {
    Now(Plan),
    /// The answer arrives in the slot.
    Later,
    /// There will be no answer.
    Never,
}

/// Answers a waiting stream: with a plan, or with a refusal if the work on it panics or is dropped.
struct Answering(Option<Arc<Slot<Waker, Plan>>>);

impl Answering {
    fn with(&mut self, plan: Plan) {
        if let Some(slot) = self.0.take() {
            slot.put(plan);
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.with(Plan::broken());
    }
}

/// Writes the cause of the stream's end for the access log: its status and details are those of the response that had
/// begun.
fn publish_end(stream: &mut Stream<'_>, config: &FilterConfig, cause: &str) {
    match config.facts {
        Facts::FilterState => stream.set_filter_state(&format!("{}.ended", config.namespace), cause.as_bytes()),
        Facts::Struct(_) | Facts::Keys => stream.set_metadata_text(&config.namespace, "ended", cause),
        Facts::None => {}
    }
}

/// Refuses a request that cannot be decided.
pub fn refuse_broken(stream: Stream<'_>) -> Status {
    stream.respond(BROKEN, &BROKEN_HEADERS, BROKEN_BODY, BROKEN_DETAILS);
    Status::StopIteration
}

/// The index of live streams wakes a live stream.
impl std::task::Wake for Slot<Waker, ()> {
    fn wake(self: Arc<Self>) {
        self.put(());
    }
}

#[cfg(test)]
mod tests {
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
                "rules": [{"name": "leave", "match": {"path": "/leave"}, "access": "sign_out"}],
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
                let bearer = if number % 20 == 19 {
                    format!("Bearer {}", fixture.token(&number.to_string()))
                } else {
                    bad.clone()
                };
                let (host, filter) = (request("/", &[("authorization", &bearer)]), fixture.filter());
                let status = filter.request_headers(host.stream(), None, true);
                (number, host, filter, status)
            })
            .collect();
        assert!(filters.iter().any(|(_, _, _, status)| *status == Status::StopAllIterationAndWatermark));
        for (number, host, filter, status) in &filters {
            while *status == Status::StopAllIterationAndWatermark
                && host.answered.borrow().is_none()
                && !host.resumed.get()
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
        for user in ["carla", "dora", "eve"] {
            let host = request("/leave", &[("authorization", &format!("Bearer {}", fixture.token(user)))]);
            let filter = fixture.filter();
            assert_eq!(filter.request_headers(host.stream(), None, true), Status::StopAllIterationAndWatermark);
            drop(filter);
            assert_eq!(host.wakers.get(), 0);
            // The client has disconnected, and is signed out all the same.
            let bearer = format!("Bearer {}", fixture.token(user));
            let ask =
                || fixture.filter().request_headers(request("/", &[("authorization", &bearer)]).stream(), None, true);
            while ask() != Status::StopIteration {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let host = request("/", &[("authorization", &format!("Bearer {}", fixture.token("fred")))]);
        let filter = fixture.filter();
        assert_eq!(filter.request_headers(host.stream(), None, false), Status::Continue);
        assert_eq!(host.wakers.get(), 1, "a request without an end is a stream");
        filter.leave();
        assert_eq!(host.wakers.get(), 0);
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
}
