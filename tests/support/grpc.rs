//! Checks as Envoy asks them, over real gRPC.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use tonic::transport::{Channel, Endpoint};

/// A connection to a check listener.
#[derive(Clone)]
pub struct Checks(AuthorizationClient<Channel>);

/// Names and values of header fields.
pub type Headers = Vec<(String, Vec<u8>)>;

/// A request to be checked; built up by the `with_` methods.
#[derive(Clone, Debug)]
pub struct Ask {
    method: String,
    path: String,
    host: String,
    headers: Vec<(String, Vec<u8>)>,
    rule: Option<String>,
    raw: bool,
}

pub fn get(path: &str) -> Ask {
    ask("GET", path)
}

pub fn ask(method: &str, path: &str) -> Ask {
    Ask {
        method: method.to_owned(),
        path: path.to_owned(),
        host: "shop.example.com".to_owned(),
        headers: Vec::new(),
        rule: None,
        raw: false,
    }
}

impl Ask {
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((name.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub fn token(self, token: &str) -> Self {
        self.header("authorization", format!("Bearer {token}"))
    }

    pub fn host(mut self, host: &str) -> Self {
        host.clone_into(&mut self.host);
        self
    }

    /// The rule that Envoy's route names.
    pub fn rule(mut self, name: &str) -> Self {
        self.rule = Some(name.to_owned());
        self
    }

    /// As Envoy sends it with `encode_raw_headers`.
    pub fn raw(mut self) -> Self {
        self.raw = true;
        self
    }

    /// Method, target and headers, as they would come over HTTP; `None` if the route is to name a rule.
    pub fn over_http(&self) -> Option<(&str, &str, Headers)> {
        let host = ("host".to_owned(), self.host.clone().into_bytes());
        let headers = [host].into_iter().chain(self.headers.clone()).collect();
        self.rule.is_none().then_some((&self.method, &self.path, headers))
    }

    pub fn message(self) -> CheckRequest {
        let mut http = HttpRequest {
            method: self.method,
            path: self.path,
            host: self.host,
            scheme: "http".to_owned(),
            ..HttpRequest::default()
        };
        if self.raw {
            let header = |(key, raw_value)| HeaderValue { key, raw_value, ..HeaderValue::default() };
            http.header_map = Some(HeaderMap { headers: self.headers.into_iter().map(header).collect() });
        } else {
            let mut headers: HashMap<String, String> = HashMap::new();
            for (name, value) in self.headers {
                let value = String::from_utf8_lossy(&value).replace('\u{fffd}', "!"); // As Envoy does.
                headers.entry(name).and_modify(|joined| *joined = format!("{joined},{value}")).or_insert(value);
            }
            http.headers = headers;
        }
        let context_extensions = self.rule.into_iter().map(|name| ("doorward.rule".to_owned(), name)).collect();
        let request = Some(Request { http: Some(http), ..Request::default() });
        CheckRequest {
            attributes: Some(AttributeContext { request, context_extensions, ..AttributeContext::default() }),
        }
    }
}

/// Envoy's result for a response.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// 200 when the request may go on.
    pub status: u16,
    /// The headers of the upstream request when allowed, else of the response.
    pub headers: HashMap<String, String>,
    pub removed: Vec<String>,
    pub body: String,
    pub metadata: HashMap<String, String>,
    pub removed_query: Vec<String>,
}

impl Verdict {
    pub fn allowed(&self) -> bool {
        self.status == 200
    }

    pub fn reason(&self) -> &str {
        self.metadata.get("reason").map_or("", String::as_str)
    }
}

impl Checks {
    pub async fn connect(address: &str) -> Self {
        let uri = if address.starts_with("unix:") {
            address.replacen("unix:", "unix://", 1)
        } else {
            format!("http://{address}")
        };
        Self(AuthorizationClient::new(Endpoint::new(uri).unwrap().connect().await.unwrap()))
    }

    /// Over a connection that stands.
    pub fn over(channel: Channel) -> Self {
        Self(AuthorizationClient::new(channel))
    }

    pub async fn check(&self, ask: Ask) -> Verdict {
        let response = self.send(ask.message()).await;
        verdict(response.expect("a refusal is a denied response, never a gRPC error"))
    }

    pub async fn send(&self, message: CheckRequest) -> Result<CheckResponse, tonic::Status> {
        self.0.clone().check(message).await.map(tonic::Response::into_inner)
    }
}

pub fn verdict(response: CheckResponse) -> Verdict {
    let status = response.status.expect("the status is always set: without it Envoy allows");
    let fields = response.dynamic_metadata.unwrap_or_default().fields;
    let metadata = fields.into_iter().map(|(name, value)| (name, text(value.kind))).collect();
    match response.http_response.expect("an explicit answer") {
        HttpResponse::OkResponse(ok) => {
            assert_eq!(status.code, 0, "an allowed response has the status OK");
            assert!(ok.headers.iter().all(|header| header.append_action == 2), "OVERWRITE_IF_EXISTS_OR_ADD");
            let headers: HashMap<_, _> =
                ok.headers.into_iter().filter_map(|h| h.header).map(|h| (h.key, h.value)).collect();
            assert!(
                ok.headers_to_remove.iter().all(|name| !headers.contains_key(name)),
                "set and removed: Envoy would remove it"
            );
            Verdict {
                status: 200,
                headers,
                removed: ok.headers_to_remove,
                body: String::new(),
                metadata,
                removed_query: ok.query_parameters_to_remove,
            }
        }
        HttpResponse::DeniedResponse(denied) => {
            assert_ne!(status.code, 0, "with the status OK Envoy would allow it");
            let headers = denied.headers.into_iter().filter_map(|h| h.header).map(|h| (h.key, h.value)).collect();
            let status = u16::try_from(denied.status.unwrap().code).unwrap();
            Verdict { status, headers, removed: Vec::new(), body: denied.body, metadata, removed_query: Vec::new() }
        }
        HttpResponse::ErrorResponse(_) => panic!("Envoy before 1.37 makes a 403 of an error response"),
    }
}

fn text(kind: Option<Kind>) -> String {
    match kind {
        Some(Kind::StringValue(text)) => text,
        Some(Kind::NumberValue(number)) => number.to_string(),
        Some(Kind::ListValue(list)) => {
            list.values.into_iter().map(|value| text(value.kind)).collect::<Vec<_>>().join(" ")
        }
        other => format!("{other:?}"),
    }
}
