//! The writer against prost: a response, parsed with Envoy's full schema, matches the decision.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::google::protobuf::value::Kind;
use proptest::prelude::*;
use prost::Message as _;
use serde_json::{Value, json};

use super::*;
use crate::authz::authorizer::{Outcome, View};
use crate::authz::claims::fits_header;
use crate::authz::revocation::RevocationIndex;
use crate::config::Config;
use crate::dev::{AUDIENCE, DevIssuer, ISSUER};

/// A response as JSON: sets of names, values by name.
#[derive(Debug, Default, PartialEq)]
struct Read {
    code: i32,
    status: i32,
    set: BTreeMap<String, String>,
    removed: BTreeSet<String>,
    removed_query: Vec<String>,
    body: String,
    metadata: BTreeMap<String, Value>,
}

fn headers(options: Vec<HeaderValueOption>) -> BTreeMap<String, String> {
    let count = options.len();
    let pair = |option: HeaderValueOption| {
        assert_eq!(option.append_action, 2, "OVERWRITE_IF_EXISTS_OR_ADD");
        let header = option.header.unwrap();
        assert!(header.raw_value.is_empty());
        (header.key, header.value)
    };
    let headers: BTreeMap<_, _> = options.into_iter().map(pair).collect();
    assert_eq!(headers.len(), count, "each name once");
    headers
}

fn json_of(kind: Kind) -> Value {
    match kind {
        Kind::StringValue(text) => json!(text),
        #[expect(clippy::cast_possible_truncation, reason = "seconds")]
        Kind::NumberValue(number) => json!(number as i64),
        Kind::ListValue(list) => list.values.into_iter().map(|value| json_of(value.kind.unwrap())).collect(),
        other => panic!("{other:?}"),
    }
}

fn read(bytes: &[u8]) -> Read {
    let (prefix, message) = bytes.split_at(5);
    assert_eq!(prefix, [&[0][..], &u32::try_from(message.len()).unwrap().to_be_bytes()].concat());
    assert_eq!(message[0], 0x0a, "the status comes first");
    let response = CheckResponse::decode(message).unwrap();
    let metadata = response.dynamic_metadata.unwrap().fields;
    let mut read = Read {
        code: response.status.unwrap().code,
        metadata: metadata.into_iter().map(|(name, value)| (name, json_of(value.kind.unwrap()))).collect(),
        ..Read::default()
    };
    match response.http_response.unwrap() {
        HttpResponse::OkResponse(ok) => {
            read.set = headers(ok.headers);
            let count = ok.headers_to_remove.len();
            read.removed = ok.headers_to_remove.into_iter().collect();
            assert_eq!(read.removed.len(), count, "each name once");
            read.removed_query = ok.query_parameters_to_remove;
        }
        HttpResponse::DeniedResponse(denied) => {
            read.status = denied.status.unwrap().code;
            read.set = headers(denied.headers);
            read.body = denied.body;
        }
        HttpResponse::ErrorResponse(_) => panic!("never"),
    }
    read
}

/// All spellings of a name with `_` or `.` for `-`.
fn spellings(name: &str) -> Vec<String> {
    let mut found = vec![String::new()];
    for c in name.chars() {
        let ends = if c == '-' { vec!['-', '_', '.'] } else { vec![c] };
        found = found.iter().flat_map(|start| ends.iter().map(move |end| format!("{start}{end}"))).collect();
    }
    found
}

const FIELDS: [(&str, &str); 4] =
    [("x-user-id", "user_id"), ("x-user-email", "email"), ("x-s", "session_id"), ("x-client", "api_client")];

fn config(dev: &DevIssuer, payload: bool, forward: bool) -> String {
    let fields: Vec<_> = FIELDS.iter().map(|(name, field)| format!("{name}: {field}")).collect();
    let payload = if payload { "{header: x-identity}" } else { "null" };
    format!(
        "revocation: {{store: embedded}}\n\
         issuers: [{{name: dev, issuer: \"{ISSUER}\", audiences: [{AUDIENCE}], keys: {{jwks: {}}}}}]\n\
         identity: {{headers: {{{}}}, payload: {payload}}}\n\
         token: {{forward: {forward}, from: [{{header: authorization, scheme: Bearer}}, {{query: t}}]}}\n\
         rules:\n\
         - {{name: public, match: {{path: /public}}, access: public}}\n\
         - {{name: shadow, match: {{path: /shadow}}, enforce: false, require: {{scopes: [none]}}}}\n\
         - {{name: scoped, match: {{path: /scoped}}, require: {{scopes: [none]}}}}\n\
         - {{name: stale, match: {{path: /stale}}, on_stale: allow, max_staleness: 1s}}\n",
        dev.jwks(),
        fields.join(", ")
    )
}

/// A token's claims: each may be missing, or unsuitable for a header.
fn any_claims() -> impl Strategy<Value = Value> {
    let text = || prop::option::of("[a-z@.]{1,9}|[ -~\n]{1,5}|a{200}");
    (("[a-z]{1,20}", text(), text()), ("[a-z]{1,9}|é\n", text(), prop::option::of("[a-z\n ]{0,20}"))).prop_map(
        |((sub, email, sid), (jti, azp, scope))| {
            let mut claims =
                json!({"iss": ISSUER, "aud": AUDIENCE, "sub": sub, "jti": jti, "iat": 1_000, "exp": 2_000});
            for (name, value) in [("email", email), ("sid", sid), ("azp", azp), ("scope", scope)] {
                if let Some(value) = value {
                    claims[name] = json!(value);
                }
            }
            claims
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn envoy_reads_the_decision(claims in any_claims(), payload in any::<bool>(), forward in any::<bool>()) {
        let dev = DevIssuer::generate().unwrap();
        let config = Config::parse(&config(&dev, payload, forward), "test", Path::new(""), std::iter::empty()).unwrap().config;
        let (authorizer, responder) = (config.authorizer(), config.responder());
        let token = format!("Bearer {}", dev.mint(&claims).unwrap());
        let now = crate::authz::claims::Timestamp::from_secs(1_500);
        let index = RevocationIndex::new();
        // Twice: the second response is the cached one.
        for path in ["/", "/shadow", "/scoped", "/stale", "/public", "/", "/shadow", "/stale"] {
            for with_token in [true, false] {
                let headers: &[(&str, &[u8])] = if with_token { &[("Authorization", token.as_bytes())] } else { &[] };
                let request = RequestView { method: "GET", target: path, host: "a", headers, ..RequestView::NOTHING };
                let age = Duration::from_secs(if path == "/stale" { 2 } else { 0 });
                let view = View { age: Some(age), ..View::of(&index) };
                let decision = authorizer.authorize(&request, view, now);
                let found = read(&respond(&responder, &decision, &request));
                prop_assert_eq!(&found, &expected(&decision, &responder, &claims, payload, forward), "{}", path);
                // A response that another responder encoded is not reused.
                let unsigned = responder.unsigned();
                prop_assert_eq!(&read(&respond(&unsigned, &decision, &request)), &found);
            }
        }
    }
}

/// The response that the specification requires, built from the claims themselves.
fn expected(decision: &Decision<'_>, responder: &Responder, claims: &Value, payload: bool, forward: bool) -> Read {
    let text = |name: &str| claims[name].as_str().filter(|text| fits_header(text)).map(str::to_owned);
    let mut read = Read::default();
    let shadowed = match &decision.outcome {
        Outcome::Allowed(grant) => {
            let mut owned: Vec<_> = FIELDS.iter().map(|(name, _)| *name).chain(["x-doorward-stale"]).collect();
            if payload {
                owned.push("x-identity");
            }
            if grant.principal.is_some() {
                let fields = [("x-user-id", text("sub")), ("x-user-email", text("email")), ("x-s", text("sid"))];
                read.set.extend(fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
                if payload {
                    read.set.insert("x-identity".to_owned(), document(claims));
                }
            }
            if grant.stale {
                read.set.insert("x-doorward-stale".to_owned(), "true".to_owned());
            }
            read.removed = owned.iter().flat_map(|name| spellings(name)).collect();
            read.removed.retain(|name| !read.set.contains_key(name));
            if !forward {
                read.removed.insert("authorization".to_owned());
            }
            grant.shadowed
        }
        refused => {
            let respond = {
                let denial = refused.denial().unwrap();
                responder.refuse(denial, &decision.rule.require, &decision.evidence, &RequestView::NOTHING)
            };
            read.status = i32::from(respond.status);
            read.code = if respond.status == 401 { 16 } else { 7 };
            read.set = respond.headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            read.body = respond.body;
            refused.denial()
        }
    };
    let outcome = match (&decision.outcome, shadowed) {
        (Outcome::Allowed(_), None) => "allowed",
        (Outcome::Allowed(_), Some(_)) => "shadow",
        _ => "denied",
    };
    let mut facts = json!({
        "decision": outcome, "rule": &*decision.rule.name, "reason": shadowed.map_or("ok", |denial| denial.label()),
    });
    if decision.evidence.token.is_some() {
        let scopes = claims["scope"].as_str().unwrap_or_default().split(' ').filter(|scope| fits_header(scope));
        facts["issuer"] = json!("dev");
        facts["scopes"] = scopes.collect();
        facts["expires_at"] = json!(2_000);
        for (name, claim) in [("user_id", "sub"), ("token_id", "jti"), ("session_id", "sid"), ("client_id", "azp")] {
            if let Some(text) = text(claim) {
                facts[name] = json!(text);
            }
        }
    }
    read.metadata = facts.as_object().unwrap().clone().into_iter().collect();
    read
}

/// The plain identity payload; an empty name counts as absent.
fn document(claims: &Value) -> String {
    let scopes = claims["scope"].as_str().unwrap_or_default().split(' ').filter(|scope| !scope.is_empty());
    let mut document = json!({
        "issuer": "dev", "issued_at": 1_000, "expires_at": 2_000, "scopes": scopes.collect::<Vec<_>>(),
    });
    let names = [("user_id", "sub"), ("token_id", "jti"), ("session_id", "sid"), ("client_id", "azp")];
    for (name, claim) in names {
        if let Some(text) = claims[claim].as_str().filter(|text| !text.is_empty()) {
            document[name] = json!(text);
        }
    }
    if let Some(email) = claims["email"].as_str() {
        document["email"] = json!(email);
    }
    URL_SAFE_NO_PAD.encode(document.to_string())
}

#[test]
fn lengths_of_every_size_are_written() {
    for length in [0, 1, 127, 128, 16_383, 16_384, 100_000] {
        let mut bytes = Vec::new();
        let text = "x".repeat(length);
        Message::new(&mut bytes).message(DENIED_RESPONSE, |denied| denied.text(3, &text));
        let response = CheckResponse::decode(bytes.as_slice()).unwrap();
        let Some(HttpResponse::DeniedResponse(denied)) = response.http_response else { panic!("{response:?}") };
        assert_eq!(denied.body, text);
    }
}
