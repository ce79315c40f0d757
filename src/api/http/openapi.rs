//! `/openapi.json`: generated from the handlers, so that the two cannot differ. The same document is committed as
//! `docs/openapi.json`; a test compares them.

use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, Content, InfoBuilder, License, OpenApi, RefOr, Schema, ServerBuilder};
use utoipa::{PartialSchema, ToSchema};

use super::form::OAuthErrorBody;
use super::problem::ProblemDetails;
use super::signals::EventErrorBody;
use crate::authz::denial::Denial;

/// The OpenAPI document of both listeners.
#[must_use]
pub fn document() -> OpenApi {
    let mut document = super::public().merge(super::event_sources()).merge(super::admin()).into_openapi();
    let mut license = License::new(env!("CARGO_PKG_LICENSE"));
    license.identifier = Some(env!("CARGO_PKG_LICENSE").to_owned());
    let info = InfoBuilder::new().title("Doorward").version(env!("CARGO_PKG_VERSION")).license(Some(license));
    document.info = info.description(Some("Instant sign-out for JWTs.")).build();
    let here = ServerBuilder::new().url("/").description(Some("The listener that serves this document."));
    document.servers = Some(vec![here.build()]);

    let scheme = |description: &str| {
        let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(description)).build();
        SecurityScheme::Http(scheme)
    };
    let components = document.components.get_or_insert_default();
    components.add_security_scheme("admin_key", scheme("A key of `admin.keys`."));
    let basic =
        HttpBuilder::new().scheme(HttpAuthScheme::Basic).description(Some("`NAME:KEY` of `admin.keys`.")).build();
    components.add_security_scheme("client", SecurityScheme::Http(basic));
    components.add_security_scheme("push_token", scheme("The transmitter's `push.token`."));
    components.add_security_scheme("assertion", scheme("A JWT that a configured transmitter signed."));
    components.add_security_scheme("access_token", scheme("The caller's own access token."));
    // The handlers do not collect schemas that only error responses name.
    add::<ProblemDetails>(components);
    add::<OAuthErrorBody>(components);
    add::<EventErrorBody>(components);

    for (path, item) in &mut document.paths.paths {
        for operation in [item.get.as_mut(), item.post.as_mut()].into_iter().flatten() {
            let (asked, answered) = examples(path, operation.request_body.is_some());
            show(operation, asked, answered);
        }
    }
    document
}

fn add<T: ToSchema + PartialSchema>(components: &mut Components) {
    components.schemas.insert(T::name().into_owned(), T::schema());
}

/// The schema of a closed set of names.
pub(super) fn names<const N: usize>(description: &str, names: [&'static str; N]) -> RefOr<Schema> {
    let schema = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names));
    schema.description(Some(description)).into()
}

/// An example of a request and of its answer.
fn examples(path: &str, has_body: bool) -> (Option<Value>, Option<Value>) {
    const TOKEN: &str = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJhbGljZSJ9.c2lnbmF0dXJl";
    const AT: &str = "2027-06-01T12:00:00.000Z";
    const UNTIL: &str = "2027-06-02T12:00:30.000Z";
    const POSITION: &str = "1780315200000-0";
    let (asked, answered) = match (path, has_body) {
        ("/readyz", _) => (None, Some(json!({"ready": true, "missing": []}))),
        ("/jwks.json" | "/status-lists/{issuer}/jwks.json", _) => (None, Some(json!({"keys": []}))),
        ("/status-lists/{issuer}/index", _) => {
            (None, Some(json!({"uri": "https://gateway.example.com/status-lists/main", "idx": 12_018_094})))
        }
        ("/.well-known/oauth-protected-resource", _) => {
            let servers = json!(["https://auth.example.com"]);
            (None, Some(json!({"resource": "https://api.example.com", "authorization_servers": servers})))
        }
        ("/v1/revocations", true) => (
            Some(json!({"kind": "user", "issuer": "main", "id": "alice", "reason": "the laptop was stolen"})),
            Some(
                json!({"issuer": "main", "kind": "user", "id": "alice", "at": AT, "expires_at": UNTIL, "position": POSITION}),
            ),
        ),
        ("/v1/revocations", false) => {
            let item = json!({"issuer": "main", "kind": "user", "id": "alice", "origin": "revoked", "at": AT, "expires_at": UNTIL});
            (None, Some(json!({"revocations": [item], "next_cursor": null})))
        }
        ("/v1/registrations", _) => (
            Some(json!({"issuer": "main", "id": "9f1c4c0e", "expires_at": AT})),
            Some(json!({"issuer": "main", "id": "9f1c4c0e", "expires_at": UNTIL, "position": POSITION})),
        ),
        ("/v1/instances", _) => {
            let instance = json!({
                "name": "gateway-1", "this": true, "version": env!("CARGO_PKG_VERSION"), "role": "service", "uptime_seconds": 3600,
                "view_age_ms": 12, "position": POSITION, "state": "following", "clock_skew_seconds": 0.004, "streams": 3,
            });
            let relay = json!({
                "name": "relay.1", "to": "redis.us.example.com:6379", "state": "following", "up": true, "lag_ms": 210,
                "owner": "gateway-1", "problem": null,
            });
            let fleet = json!({
                "instances": [instance], "complete": true, "max_staleness_ms": 5000, "missing": [], "warnings": [],
                "signals": [transmitter()], "relays": [relay],
            });
            (None, Some(fleet))
        }
        ("/v1/signals", _) => (None, Some(json!({"transmitters": [transmitter()], "left_over": []}))),
        ("/v1/about", _) => {
            let claims = json!({"user_id": ["sub"], "session_id": ["sid"], "client_id": ["client_id", "azp"]});
            let issuer = json!({
                "name": "main", "issuer": ["https://auth.example.com"], "leeway_ms": 30000,
                "retention_ms": 86_430_000, "claims": claims,
            });
            let about = json!({
                "version": env!("CARGO_PKG_VERSION"), "key": "on-call", "may": ["read", "revoke"], "issuers": [issuer],
                "rules": ["api"], "store": "redis", "max_staleness_ms": 5000, "on_stale": "deny", "list_page": 1000,
                "receipt_timeout_ms": 10000,
            });
            (None, Some(about))
        }
        ("/v1/refusals", _) => {
            let kind = json!({
                "reason": "signed_out", "rule": "api", "issuer": "main", "enforced": true, "total": 3, "counts": [0, 1, 2],
            });
            (None, Some(json!({"slot_ms": 10000, "kinds": [kind], "explained": [refusal()]})))
        }
        ("/v1/refusals/{id}", _) => {
            let mut refusal = refusal();
            refusal["meaning"] = json!(Denial::SignedOut.meaning());
            refusal["checks"] = json!([{"check": "revocation", "passed": false}]);
            (None, Some(refusal))
        }
        ("/v1/explain", _) => (
            Some(json!({"method": "GET", "path": "/orders", "host": "shop.example.com", "token": TOKEN})),
            Some(json!({"decision": "denied", "reason": "signed_out", "rule": "default", "access": "protected"})),
        ),
        ("/oauth2/revoke", _) => (Some(json!({"token": TOKEN, "token_type_hint": "access_token"})), None),
        ("/oauth2/introspect", _) => (Some(json!({"token": TOKEN})), Some(json!({"active": false}))),
        ("/oidc/backchannel-logout", _) => (Some(json!({"logout_token": TOKEN})), None),
        ("/signals/events", _) => (Some(json!(TOKEN)), None),
        ("/global-token-revocation", _) => {
            (Some(json!({"sub_id": {"format": "iss_sub", "iss": "https://auth.example.com", "sub": "alice"}})), None)
        }
        _ => (None, None),
    };
    (asked, answered)
}

fn transmitter() -> Value {
    json!({
        "name": "signals.1", "issuer": "https://idp.example.com", "audience": "https://doorward.example.com",
        "delivery": "push", "managed": true, "state": "enabled", "owner": "gateway-1",
        "stream_id": "f67e39a0a4d34d56b3aa1bc4cff0069f", "verified_at": "2027-06-01T12:00:00.000Z", "problem": null,
        "last_event_at": "2027-06-01T12:00:00.000Z",
        "events": {"applied": 12, "ignored": 3, "unmapped": 0, "unseen": 0, "refused": 0},
    })
}

fn refusal() -> Value {
    json!({
        "id": 7, "at": "2027-06-01T12:00:00.000Z", "reason": "signed_out", "rule": "api", "issuer": "main",
        "enforced": true, "detail": null, "request_id": "5b1f0c9e", "source": "203.0.113.7",
    })
}

/// Puts examples into an operation: its request, and its answers of success.
fn show(operation: &mut Operation, asked: Option<Value>, answered: Option<Value>) {
    let set = |content: &mut RefOr<Content>, example: &Option<Value>| {
        if let RefOr::T(content) = content {
            content.example.clone_from(example);
        }
    };
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        body.content.values_mut().for_each(|content| set(content, &asked));
    }
    let good = operation.responses.responses.iter_mut().filter(|(status, _)| status.starts_with('2'));
    for (_, response) in good {
        if let RefOr::T(response) = response {
            let shown = response.content.iter_mut().filter(|(media_type, _)| *media_type != "text/event-stream");
            shown.for_each(|(_, content)| set(content, &answered));
        }
    }
}

pub(super) async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document().to_json().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;

    fn all(value: &Value, visit: &mut dyn FnMut(&Value)) {
        visit(value);
        match value {
            Value::Array(items) => items.iter().for_each(|item| all(item, visit)),
            Value::Object(map) => map.values().for_each(|item| all(item, visit)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_resolves_and_no_operation_has_the_name_of_another() {
        let document = serde_json::to_value(document()).unwrap();
        let (mut broken, mut names, mut twice) = (Vec::new(), HashSet::new(), Vec::new());
        all(&document, &mut |value| {
            if let Some(target) = value.get("$ref").and_then(Value::as_str)
                && document.pointer(target.trim_start_matches('#')).is_none()
            {
                broken.push(target.to_owned());
            }
            if let Some(name) = value.get("operationId").and_then(Value::as_str)
                && !names.insert(name.to_owned())
            {
                twice.push(name.to_owned());
            }
        });
        assert!(broken.is_empty() && twice.is_empty(), "{broken:?} {twice:?}");
        assert_eq!(document["info"]["license"]["identifier"], "Apache-2.0");
        assert_eq!(document["servers"][0]["url"], "/");
    }

    #[test]
    fn it_is_valid_by_the_schema_of_openapi() {
        let schema: Value = serde_json::from_str(include_str!("openapi/schema-3.1.json")).unwrap();
        let validator = jsonschema::validator_for(&schema).unwrap();
        let mut document = serde_json::to_value(document()).unwrap();
        let faults: Vec<_> = validator.iter_errors(&document).map(|fault| fault.to_string()).collect();
        assert!(faults.is_empty(), "{faults:#?}");
        document["info"]["license"] = json!("Apache-2.0");
        assert!(!validator.is_valid(&document), "the schema judges");
    }

    #[test]
    fn every_example_fits_its_schema() {
        let document = serde_json::to_value(document()).unwrap();
        let mut shown = 0;
        let mut wrong = Vec::new();
        all(&document["paths"], &mut |value| {
            let (Some(example), Some(schema)) = (value.get("example"), value.get("schema")) else { return };
            shown += 1;
            let mut schema = schema.clone();
            schema["components"] = document["components"].clone();
            let validator = jsonschema::validator_for(&schema).unwrap();
            wrong.extend(validator.iter_errors(example).map(|fault| format!("{fault}: {example}")));
        });
        assert!(wrong.is_empty() && shown >= 15, "{shown} {wrong:#?}");
        // Every request with a body has an example.
        let bodies = document["paths"].as_object().unwrap().values().filter_map(|item| item["post"].get("requestBody"));
        for body in bodies {
            let mut content = body["content"].as_object().unwrap().values();
            assert!(content.all(|content| content.get("example").is_some()), "{body}");
        }
    }

    #[test]
    fn the_committed_file_is_what_is_served() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
        let committed: Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        assert!(
            committed == serde_json::to_value(document()).unwrap(),
            "docs/openapi.json is old: run docs/generate.sh"
        );
    }
}
