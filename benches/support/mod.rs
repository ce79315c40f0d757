//! The requests of the benchmarks.

use std::collections::HashMap;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use envoy_types::pb::envoy::service::ext_proc::v3::processing_request;
use envoy_types::pb::envoy::service::ext_proc::v3::{HttpHeaders, ProcessingRequest};
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

/// The first message of a stream that this `CheckResponse` allowed, as a gRPC message.
#[allow(dead_code, reason = "one of the benchmarks opens streams")]
pub fn opening(response: &[u8]) -> Bytes {
    let facts = CheckResponse::decode(response).ok().and_then(|response| response.dynamic_metadata).unwrap_or_default();
    let filter_metadata = [("envoy.filters.http.ext_authz".to_owned(), facts)].into();
    let message = ProcessingRequest {
        request: Some(processing_request::Request::RequestHeaders(HttpHeaders::default())),
        metadata_context: Some(Metadata { filter_metadata, ..Metadata::default() }),
        ..ProcessingRequest::default()
    }
    .encode_to_vec();
    let length = u32::try_from(message.len()).unwrap_or(0).to_be_bytes();
    [&[0], &length[..], &message].concat().into()
}
