//! A decision as edits of a stream: written while the request is read, applied after.
//!
//! A setter frees the values of getters, and a decision is recorded with the values that it read. So a plan owns its
//! data.

use doorward::api::check::write_struct;
use doorward::authz::answer::{Answer, Fact, Forward, Respond, Responder, facts_of, facts_of_token, without_query};
use doorward::authz::authorizer::{Decision, Outcome};
use doorward::authz::denial::Denial;
use doorward::authz::rule::RequestView;
use doorward::authz::token::VerifiedToken;

use crate::abi::{Headers, MetadataSetter, Stream};
use crate::config::Facts;
use crate::edits::{Edit, Edits, Present, length, number};

/// The effect on a stream.
pub struct Plan {
    edits: Edits,
    facts: PublishedFacts,
    pub then: Then,
}

/// The end of a plan.
pub enum Then {
    /// The request goes on.
    Continue {
        /// Headers of the response, unless the upstream sets them.
        response: Vec<(&'static str, String)>,
        /// The token whose revocation ends the stream.
        subject: Option<Subject>,
    },
    /// A response is sent to the client.
    Respond { answer: Respond, details: String },
}

/// The subject of the stream, if its rule ends streams.
pub struct Subject {
    pub token: VerifiedToken,
    pub rule: std::sync::Arc<str>,
}

/// The facts of a decision, in their form for Envoy.
enum PublishedFacts {
    Nothing,
    FilterState(Vec<u8>),
    Struct(MetadataSetter, Vec<u8>),
    Keys(Vec<(&'static str, Value)>),
}

enum Value {
    Text(String),
    Number(f64),
    Texts(Vec<String>),
}

/// The form of a plan: the filter's setting, and whether the client uses gRPC, which only a refusal asks.
pub struct Form<G> {
    pub facts: Facts,
    pub is_grpc: G,
}

/// The bytes of most facts of a decision, without those of its token.
const USUAL: usize = 128;

impl Plan {
    /// The plan for a decision. Pure: the request stays as it was.
    pub fn new(
        responder: &Responder,
        decision: &Decision<'_>,
        request: &RequestView<'_>,
        form: Form<impl FnOnce() -> bool>,
    ) -> Self {
        match responder.answer(decision, request) {
            Answer::Forward(forward) => Self::forward(decision, &forward, request, form.facts),
            Answer::Respond(mut answer) => {
                let reason = decision.outcome.denial().map_or("signed_out", Denial::label);
                if (form.is_grpc)() {
                    let status = answer.grpc_status().to_owned();
                    answer.headers.push(("grpc-status", status)); // Without it Envoy sends 0, which is success.
                }
                let facts = published_facts(decision, form.facts, || written_facts(decision, form.facts));
                let then = Then::Respond { answer, details: format!("doorward_{reason}") };
                Self { edits: Edits::default(), facts, then }
            }
        }
    }

    fn forward(decision: &Decision<'_>, forward: &Forward<'_>, request: &RequestView<'_>, form: Facts) -> Self {
        let mut edits = Edits::default();
        let present = Present::of(request, |name| {
            if forward.always_removes(name) {
                edits.remove(name);
            }
        });
        for (name, value) in &forward.set {
            edits.set_in(&present, name, value);
        }
        forward.remove.iter().for_each(|name| edits.remove_from(&present, name));
        if !forward.remove_query.is_empty() {
            edits.set_in(&present, ":path", &without_query(request.target, &forward.remove_query));
        }
        let kept = forward.kept(|| Kept::write(decision, forward, form)).map(Kept::read);
        if let Some(kept) = &kept {
            edits.put_all_in(&present, kept.edits);
        } else {
            let identity = forward.identity();
            identity.set.iter().for_each(|(name, value)| edits.set_in(&present, name, value));
            identity.remove.iter().for_each(|name| edits.remove_from(&present, name));
        }
        let facts = published_facts(decision, form, || {
            kept.map_or_else(|| written_facts(decision, form), |kept| kept.facts(decision, form))
        });
        let response = forward.response.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let principal = match &decision.outcome {
            Outcome::Allowed(grant) => grant.principal.as_ref().filter(|_| decision.rule.ends_streams()),
            _ => None,
        };
        let subject =
            principal.map(|principal| Subject { token: principal.token().clone(), rule: decision.rule.name.clone() });
        Self { edits, facts, then: Then::Continue { response, subject } }
    }

    /// For a stream without a decision.
    pub fn broken() -> Self {
        let headers = BROKEN_HEADERS.map(|(name, value)| (name, value.to_owned())).into();
        let answer = Respond { status: BROKEN, headers, body: BROKEN_BODY.to_owned() };
        let then = Then::Respond { answer, details: BROKEN_DETAILS.to_owned() };
        Self { edits: Edits::default(), facts: PublishedFacts::Nothing, then }
    }

    /// Whether the request is changed.
    pub fn edits(&self) -> bool {
        !self.edits.is_empty()
    }

    /// Applies the edits and writes the facts; the caller does the rest. `is_parked`: the request was read a while ago,
    /// so another filter may have added what it did not have.
    pub fn apply(self, stream: &mut Stream<'_>, namespace: &str, is_parked: bool) -> Then {
        match &self.facts {
            PublishedFacts::Nothing => {}
            PublishedFacts::FilterState(text) => stream.set_filter_state(namespace, text),
            PublishedFacts::Struct(setter, fields) => stream.set_metadata(*setter, namespace, fields),
            PublishedFacts::Keys(facts) => {
                for (key, value) in facts {
                    match value {
                        Value::Text(text) => stream.set_metadata_text(namespace, key, text),
                        Value::Number(number) => stream.set_metadata_number(namespace, key, *number),
                        Value::Texts(texts) => {
                            for text in texts {
                                stream.add_metadata_text(namespace, key, text);
                            }
                        }
                    }
                }
            }
        }
        for (name, edit) in self.edits.iter() {
            match edit {
                Edit::Add(value) if !is_parked => stream.add_header(name, value),
                Edit::Add(value) | Edit::Set(value) => stream.set_header(Headers::Request, name, Some(value)),
                Edit::Remove => stream.set_header(Headers::Request, name, None),
            }
        }
        self.then
    }
}

/// The refusal of a request after an internal failure: without reasons, also for gRPC clients.
pub const BROKEN: u16 = 503;
pub const BROKEN_HEADERS: [(&str, &str); 4] =
    [("content-type", "application/json"), ("cache-control", "no-store"), ("retry-after", "1"), ("grpc-status", "14")];
pub const BROKEN_BODY: &str = "{\"error\":\"temporarily_unavailable\"}";
pub const BROKEN_DETAILS: &str = "doorward_internal_error";

/// The facts of a decision; `written`: in their form, if that is bytes.
fn published_facts(decision: &Decision<'_>, form: Facts, written: impl FnOnce() -> Vec<u8>) -> PublishedFacts {
    match form {
        Facts::None => PublishedFacts::Nothing,
        Facts::FilterState => PublishedFacts::FilterState(written()),
        Facts::Struct(setter) => PublishedFacts::Struct(setter, written()),
        Facts::Keys => {
            let of_token = decision.evidence.token.iter().flat_map(facts_of_token);
            let facts = facts_of(decision).chain(of_token);
            PublishedFacts::Keys(facts.map(|(name, fact)| (name, Value::of(fact))).collect())
        }
    }
}

/// All facts of a decision: its own, then those of its token.
fn written_facts(decision: &Decision<'_>, form: Facts) -> Vec<u8> {
    let mut bytes = of_decision(decision, form);
    bytes.extend(of_token(decision, form));
    bytes
}

fn of_decision(decision: &Decision<'_>, form: Facts) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL);
    match form {
        Facts::FilterState => {
            members(&mut bytes, facts_of(decision));
            bytes[0] = b'{'; // In the place of the first comma: there are always facts.
        }
        Facts::Struct(_) => write_struct(&mut bytes, facts_of(decision)),
        Facts::Keys | Facts::None => {}
    }
    bytes
}

fn of_token(decision: &Decision<'_>, form: Facts) -> Vec<u8> {
    let mut bytes = Vec::new();
    let facts = decision.evidence.token.iter().flat_map(facts_of_token);
    match form {
        Facts::FilterState => {
            members(&mut bytes, facts);
            bytes.push(b'}');
        }
        Facts::Struct(_) => write_struct(&mut bytes, facts),
        Facts::Keys | Facts::None => {}
    }
    bytes
}

/// Members of a JSON object, a comma before each.
fn members<'a>(text: &mut Vec<u8>, facts: impl IntoIterator<Item = (&'static str, Fact<'a>)>) {
    for (name, fact) in facts {
        text.extend_from_slice(b",\"");
        text.extend_from_slice(name.as_bytes());
        text.extend_from_slice(b"\":");
        let written = match &fact {
            // Nearly always.
            Fact::Text(value) if value.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') => {
                text.push(b'"');
                text.extend_from_slice(value.as_bytes());
                text.push(b'"');
                Ok(())
            }
            Fact::Text(value) => serde_json::to_writer(&mut *text, value),
            Fact::Seconds(value) => serde_json::to_writer(&mut *text, value),
            Fact::Texts(values) => serde_json::to_writer(&mut *text, values),
        };
        debug_assert!(written.is_ok(), "text and numbers are JSON, and memory takes all");
    }
}

impl Value {
    fn of(fact: Fact<'_>) -> Self {
        match fact {
            Fact::Text(text) => Self::Text(text.into_owned()),
            #[expect(clippy::cast_precision_loss, reason = "no date before the year 9999 has 53 bits")]
            Fact::Seconds(seconds) => Self::Number(seconds as f64),
            Fact::Texts(texts) => Self::Texts(texts),
        }
    }
}

/// The encoding that is kept with a token: the edits of its identity, and the facts of the first decision on it.
///
/// A byte for the form of the facts; the lengths of edits, rule and facts of the decision; then these, and the facts of
/// the token.
struct Kept<'a> {
    form: u8,
    edits: &'a [u8],
    /// Empty if the first decision was not [`is_plain`].
    rule: &'a [u8],
    facts: &'a [u8],
    /// Of `facts`, the part of the token.
    of_token: &'a [u8],
}

/// Whether the facts of a decision on a known token depend on its rule alone.
fn is_plain(decision: &Decision<'_>) -> bool {
    let is_allowed = matches!(&decision.outcome, Outcome::Allowed(grant) if grant.shadowed.is_none());
    is_allowed && decision.evidence.api_client.is_none()
}

impl<'a> Kept<'a> {
    fn write(decision: &Decision<'_>, forward: &Forward<'_>, form: Facts) -> Box<[u8]> {
        let mut edits = Edits::default();
        let identity = forward.identity();
        identity.set.iter().for_each(|(name, value)| edits.set(name, value));
        identity.remove.iter().for_each(|name| edits.remove(name));
        let rule = if is_plain(decision) { &*decision.rule.name } else { "" };
        let parts = [edits.as_bytes(), rule.as_bytes(), &of_decision(decision, form)];
        let mut bytes = vec![form.tag()];
        bytes.extend(parts.iter().flat_map(|part| length(part).to_le_bytes()));
        bytes.extend(parts.concat());
        bytes.extend(of_token(decision, form));
        bytes.into()
    }

    fn read(bytes: &'a [u8]) -> Self {
        let mut rest = bytes;
        let form = rest.split_off_first().copied().unwrap_or_default();
        let [edits, rule, of_decision] = [(); 3].map(|()| number(&mut rest).unwrap_or_default() as usize);
        let [edits, rule] = [edits, rule].map(|length| rest.split_off(..length).unwrap_or_default());
        Self { form, edits, rule, facts: rest, of_token: rest.get(of_decision..).unwrap_or_default() }
    }

    /// The facts of a decision on this token.
    fn facts(&self, decision: &Decision<'_>, form: Facts) -> Vec<u8> {
        if self.form != form.tag() {
            return written_facts(decision, form); // Kept for a filter with another setting.
        }
        if is_plain(decision) && *self.rule == *decision.rule.name.as_bytes() {
            debug_assert_eq!(self.facts, written_facts(decision, form), "they depend on nothing else");
            return self.facts.to_vec();
        }
        [&*of_decision(decision, form), self.of_token].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Under Miri as well: a plan with the texts of the request is applied while the host frees them.
    #[test]
    fn a_plan_owns_what_it_writes() {
        let host =
            crate::host::Host::new(&[(":path", "/orders?token=x"), ("x-user-id", "root"), ("x_user_id", "root")]);
        let mut stream = host.stream();
        let plan = {
            let headers = stream.headers(8).unwrap();
            let mut edits = Edits::default();
            let request = RequestView { headers: &headers, ..RequestView::NOTHING };
            let mut of_token = Edits::default();
            for (name, value) in &headers[1..] {
                of_token.set(name, std::str::from_utf8(value).unwrap());
            }
            of_token.remove("x_user_id");
            of_token.remove("x-absent");
            of_token.set("x-new", "1");
            edits.put_all_in(&Present::of(&request, |_| ()), of_token.as_bytes());
            assert_eq!(edits.iter().last(), Some((&b"x-new"[..], Edit::Add(b"1"))));
            let mut text = Vec::new();
            members(&mut text, [("rule", Fact::text(headers[0].0))]);
            let then = Then::Continue { response: Vec::new(), subject: None };
            Plan { edits, facts: PublishedFacts::FilterState(text), then }
        };
        assert!(matches!(plan.apply(&mut stream, "doorward", false), Then::Continue { .. }));
        assert_eq!(host.header("x-user-id").as_deref(), Some("root"));
        assert_eq!(host.header("x_user_id"), None);
        assert_eq!(host.header("x-new").as_deref(), Some("1"));
        assert_eq!(host.state.borrow()[0], ("doorward".to_owned(), b",\"rule\":\":path\"".to_vec()));
    }

    /// While a request was parked, another filter may have added a header of ours.
    #[test]
    fn what_was_added_to_a_parked_request_is_replaced() {
        let host = crate::host::Host::new(&[(":path", "/orders"), ("x-user-id", "root")]);
        let mut edits = Edits::default();
        edits.set_in(&Present::of(&RequestView::NOTHING, |_| ()), "x-user-id", "anna");
        assert_eq!(edits.iter().last(), Some((&b"x-user-id"[..], Edit::Add(b"anna"))));
        let then = Then::Continue { response: Vec::new(), subject: None };
        let plan = Plan { edits, facts: PublishedFacts::Nothing, then };
        let mut stream = host.stream();
        assert!(matches!(plan.apply(&mut stream, "doorward", true), Then::Continue { .. }));
        let users: Vec<_> = stream.headers(8).unwrap().into_iter().filter(|(name, _)| *name == "x-user-id").collect();
        assert_eq!(users, [("x-user-id", &b"anna"[..])]);
    }

    #[test]
    fn members_are_json_whatever_they_hold() {
        let mut text = Vec::new();
        let scopes = vec!["a".to_owned(), "\"".to_owned()];
        members(
            &mut text,
            [("rule", Fact::text("a\"b\\\n")), ("expires_at", Fact::Seconds(7)), ("scopes", Fact::Texts(scopes))],
        );
        text[0] = b'{';
        text.push(b'}');
        let read: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(read, serde_json::json!({"rule": "a\"b\\\n", "expires_at": 7, "scopes": ["a", "\""]}));
    }
}
