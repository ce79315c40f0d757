//! What the benchmarks ask.

use std::collections::HashMap;

use bytes::Bytes;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use prost::Message;

/// A `CheckRequest` for a browser's request: 20 header fields, and `authorization` if there is one.
pub fn message(path: &str, authorization: Option<String>) -> Bytes {
    let mut headers: HashMap<String, String> =
        (0..20).map(|at| (format!("x-header-number-{at}"), "a value of thirty-two characters".to_owned())).collect();
    headers.extend(authorization.map(|value| ("authorization".to_owned(), value)));
    let http = HttpRequest {
        method: "GET".to_owned(),
        path: path.to_owned(),
        host: "shop.example.com".to_owned(),
        headers,
        ..HttpRequest::default()
    };
    let request = Some(Request { http: Some(http), ..Request::default() });
    CheckRequest { attributes: Some(AttributeContext { request, ..AttributeContext::default() }) }
        .encode_to_vec()
        .into()
}
