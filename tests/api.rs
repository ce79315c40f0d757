//! The HTTP API, against the real process.

mod admin;
mod commands;
mod receipts;
mod revocations;
mod versions;

use std::net::SocketAddr;

use doorward::authz::api_key::digest_of;
use reqwest::{Method, RequestBuilder};
use serde_json::Value;

use crate::support::doorward::Doorward;
use crate::support::grpc::{Checks, get};

/// The keys of the tests: one with all permissions, one that may only read, one that may only revoke.
pub const OPERATOR: &str = "operator-key-0123456789";
pub const READER: &str = "reader-key-0123456789";
pub const REVOKER: &str = "revoker-key-0123456789";

/// The section `admin` with these keys.
pub fn admin_keys() -> String {
    let keys = [("operator", OPERATOR, "revoke, read"), ("reader", READER, "read"), ("revoker", REVOKER, "revoke")];
    let line = |(name, key, may): (&str, &str, &str)| {
        let sha256 = hex(digest_of(key.as_bytes()));
        format!("    - {{name: {name}, sha256: {sha256}, may: [{may}]}}\n")
    };
    format!("admin:\n  keys:\n{}", keys.map(line).concat())
}

fn hex(digest: [u8; 32]) -> String {
    let half = |at: usize| u128::from_be_bytes(digest[at..at + 16].try_into().unwrap());
    format!("{:032x}{:032x}", half(0), half(16))
}

/// An answer of the API.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Reply {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Asserts problem details of this status and error, at this place; returns its detail.
    #[track_caller]
    pub fn is_problem(&self, status: u16, error: &str, pointer: Option<&str>) -> &str {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json", "{self:?}");
        assert_eq!(self.header("cache-control"), "no-store");
        assert_eq!(self.body["type"], format!("urn:doorward:problem:{error}"), "{self:?}");
        assert_eq!(self.body["status"], status);
        assert!(self.body["title"].as_str().is_some_and(|title| !title.is_empty()));
        assert_eq!(self.body["pointer"].as_str(), pointer, "{self:?}");
        self.body["detail"].as_str().unwrap()
    }
}

pub fn request(address: SocketAddr, method: Method, path: &str) -> RequestBuilder {
    reqwest::Client::new().request(method, format!("http://{address}{path}"))
}

pub async fn send(request: RequestBuilder) -> Reply {
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let body = response.bytes().await.unwrap();
    Reply { status, headers, body: serde_json::from_slice(&body).unwrap_or(Value::Null) }
}

/// `GET` with a key.
pub async fn read(doorward: &Doorward, path: &str, key: &str) -> Reply {
    send(request(doorward.http, Method::GET, path).bearer_auth(key)).await
}

/// `POST` of JSON with the operator's key.
pub async fn post(doorward: &Doorward, path: &str, body: &Value) -> Reply {
    send(request(doorward.http, Method::POST, path).bearer_auth(OPERATOR).json(body)).await
}

pub async fn revoke(doorward: &Doorward, body: &Value) -> Reply {
    post(doorward, "/v1/revocations", body).await
}

pub async fn reason(checks: &Checks, token: &str) -> String {
    checks.check(get("/").token(token)).await.reason().to_owned()
}
