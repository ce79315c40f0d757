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
        match self.decide(engine, &stream, rule, is_whole) {
            Decided::Now(plan) => self.carry_out(engine, plan, stream, false),
            Decided::Later => Status::StopAllIterationAndWatermark,
            Decided::Never => refuse_broken(stream),
        }
    }

    fn decide(&self, engine: &Hosted, stream: &Stream<'_>, rule: Option<&str>, is_whole: bool) -> Decided {
        let (state, facts) = (engine.state(), self.config.facts);
        let headers = stream.headers(engine.limits().request_headers);
        let request = headers.as_deref().map_err(|unreadable| detail(*unreadable));
        let request = match request.and_then(|headers| Request::read(headers, rule, stream.source_address())) {
            Ok(request) => request,
            Err(detail) => {
                let flaw = Flaw { detail, request: &RequestView::NOTHING };
                let is_grpc = || stream.header(Headers::Request, "content-type").is_some_and(is_grpc);
                let put = |responder: &Responder, decision: &Decision<'_>, request: &RequestView<'_>| {
                    Plan::new(responder, decision, request, Form { facts, is_grpc })
                };
                return Decided::Now(refuse(state, Denial::BadRequest, Some(flaw), put));
            }
        };
        let view = request.view();
        let put = planned(facts, view);
        self.lasts.set(!is_whole && view.header("content-length").next().is_none());
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
            let query = if in_turn { query.verified_in_turn() } else { query };
            let plan = decide(query, planned(facts, view)).await;
            answer.with(plan);
        });
        Decided::Later
    }

    /// Applies a plan; `is_parked`: the request was stopped before.
    fn carry_out(&self, engine: &Hosted, plan: Plan, mut stream: Stream<'_>, is_parked: bool) -> Status {
        let is_changed = plan.edits();
        match plan.apply(&mut stream, &self.config.namespace, is_parked) {
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
        let Some(subject) = self.subject.take() else { return };
        self.subject.set(Some(subject));
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

/// Plans the decision on a request, or its refusal when the decision fails: also for that the client's protocol counts.
fn planned(
    facts: Facts,
    asked: RequestView<'_>,
) -> impl Fn(&Responder, &Decision<'_>, &RequestView<'_>) -> Plan + Copy {
    let is_grpc = move || asked.header("content-type").next().is_some_and(is_grpc);
    move |responder, decision, request| Plan::new(responder, decision, request, Form { facts, is_grpc })
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
mod tests;
