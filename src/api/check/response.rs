//! The `CheckResponse` to a decision, written straight to its bytes.
//!
//! Only `status.code` decides: Envoy allows a request whose response is empty. So the status is written first, by the
//! one function that writes responses.
//!
//! A token's identity is the same in all answers under one configuration: it is encoded once, as complete
//! fields, and copied. The same goes for the headers that are always removed. A reader merges a repeated
//! message field, so the parts are concatenated.

use super::message::Message;
use crate::authz::answer::{Answer, Fact, Forward, Respond, Responder, facts_of, facts_of_token};
use crate::authz::authorizer::Decision;
use crate::authz::rule::RequestView;

/// `google.rpc.Code`
const UNAUTHENTICATED: u16 = 16;
const PERMISSION_DENIED: u16 = 7;

/// Fields of `envoy.service.auth.v3.CheckResponse`.
const STATUS: u8 = 1;
const DENIED_RESPONSE: u8 = 2;
const OK_RESPONSE: u8 = 3;
const DYNAMIC_METADATA: u8 = 4;

/// Fields of `OkHttpResponse`; `headers` has the same number in `DeniedHttpResponse`.
const HEADERS: u8 = 2;
const HEADERS_TO_REMOVE: u8 = 5;
const RESPONSE_HEADERS_TO_ADD: u8 = 6;
const QUERY_PARAMETERS_TO_REMOVE: u8 = 8;

/// The initial capacity, enough for most answers; an unread answer keeps its capacity in memory.
const USUAL_LENGTH: usize = 1024;

/// A gRPC message with the response in it: a byte for "not compressed", four of length, the message.
pub(super) fn respond(responder: &Responder, decision: &Decision<'_>, request: &RequestView<'_>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(USUAL_LENGTH);
    bytes.extend_from_slice(&[0; 5]);
    let mut response = Message::new(&mut bytes);
    match responder.answer(decision, request) {
        Answer::Forward(forward) => {
            response.message(STATUS, |_| {}); // 0 is OK.
            forwarded(&mut response, decision, &forward);
            let proof = forward.rule_proof(&decision.rule.name);
            facts(&mut response, proof.map(|(name, proof)| (name, Fact::Text(proof))));
        }
        Answer::Respond(respond) => {
            let code = if respond.status == 401 { UNAUTHENTICATED } else { PERMISSION_DENIED };
            response.message(STATUS, |status| status.number(1, code));
            denied(&mut response, &respond);
            if let Some(token) = &decision.evidence.token {
                facts(&mut response, facts_of_token(token));
            }
        }
    }
    facts(&mut response, facts_of(decision));
    let length = u32::try_from(bytes.len() - 5).unwrap_or(u32::MAX);
    bytes[1..5].copy_from_slice(&length.to_be_bytes());
    bytes
}

fn forwarded(response: &mut Message<'_>, decision: &Decision<'_>, forward: &Forward<'_>) {
    response.message(OK_RESPONSE, |ok| {
        for (name, value) in &forward.set {
            set(ok, name, value);
        }
        for (name, value) in &forward.response {
            header(ok, RESPONSE_HEADERS_TO_ADD, name, value, ADD_IF_ABSENT);
        }
        forward.remove.iter().for_each(|name| ok.text(HEADERS_TO_REMOVE, name));
        forward.remove_query.iter().for_each(|name| ok.text(QUERY_PARAMETERS_TO_REMOVE, name));
    });
    response.fields(forward.always_removed().written(|names| {
        written(|part| {
            part.message(OK_RESPONSE, |ok| names.iter().for_each(|name| ok.text(HEADERS_TO_REMOVE, name)));
        })
    }));
    let of_token = |part: &mut Message<'_>| {
        let identity = forward.identity();
        part.message(OK_RESPONSE, |ok| {
            identity.set.iter().for_each(|(name, value)| set(ok, name, value));
            identity.remove.iter().for_each(|name| ok.text(HEADERS_TO_REMOVE, name));
        });
        if let Some(token) = &decision.evidence.token {
            facts(part, facts_of_token(token));
        }
        if let Some((name, subject)) = forward.subject() {
            facts(part, [(name, Fact::Text(&subject))]);
        }
    };
    match forward.kept(|| written(of_token)) {
        Some(kept) => response.fields(kept),
        None => of_token(response),
    }
}

fn written(write: impl FnOnce(&mut Message<'_>)) -> Box<[u8]> {
    let mut bytes = Vec::new();
    write(&mut Message::new(&mut bytes));
    bytes.into()
}

fn denied(response: &mut Message<'_>, respond: &Respond) {
    response.message(DENIED_RESPONSE, |denied| {
        denied.message(1, |status| status.number(1, respond.status));
        respond.headers.iter().for_each(|(name, value)| set(denied, name, value));
        denied.text(3, &respond.body);
    });
}

/// `HeaderValueOption`: replaces the client's copy of the header. Set explicitly, because Envoy's handling of the
/// default has changed between versions.
fn set(message: &mut Message<'_>, name: &str, value: &str) {
    header(message, HEADERS, name, value, OVERWRITE_IF_EXISTS_OR_ADD);
}

/// `HeaderValueOption.HeaderAppendAction`.
const ADD_IF_ABSENT: u16 = 1;
const OVERWRITE_IF_EXISTS_OR_ADD: u16 = 2;

fn header(message: &mut Message<'_>, field: u8, name: &str, value: &str, action: u16) {
    message.message(field, |option| {
        option.message(1, |header| {
            header.text(1, name);
            header.text(2, value);
        });
        option.number(3, action);
    });
}

/// Fields of the `google.protobuf.Struct`.
fn facts<'a>(response: &mut Message<'_>, facts: impl IntoIterator<Item = (&'static str, Fact<'a>)>) {
    response.message(DYNAMIC_METADATA, |metadata| fields(metadata, facts));
}

/// Appends facts as fields of a `google.protobuf.Struct`, for a front end that returns the metadata alone.
pub fn write_struct<'a>(bytes: &mut Vec<u8>, facts: impl IntoIterator<Item = (&'static str, Fact<'a>)>) {
    fields(&mut Message::new(bytes), facts);
}

fn fields<'a>(metadata: &mut Message<'_>, facts: impl IntoIterator<Item = (&'static str, Fact<'a>)>) {
    for (name, fact) in facts {
        metadata.message(1, |field| {
            field.text(1, name);
            field.message(2, |value| match fact {
                Fact::Text(text) => value.text(3, text),
                Fact::Seconds(seconds) => {
                    #[expect(clippy::cast_precision_loss, reason = "no date before the year 9999 has 53 bits")]
                    value.double(2, seconds as f64);
                }
                Fact::Texts(texts) => value.message(6, |list| {
                    for text in &texts {
                        list.message(1, |item| item.text(3, text));
                    }
                }),
            });
        });
    }
}

#[cfg(test)]
mod tests;
