//! `ANY /auth` and `/auth/*`: the same decision for proxies that ask over HTTP.
//!
//! Which request is asked about is said in one of three ways:
//!
//! | | path and query | method | host |
//! | --- | --- | --- | --- |
//! | Envoy's HTTP ext_authz with `path_prefix: /auth` | what follows `/auth` | the asking request's own | its own |
//! | nginx auth_request | `X-Original-URI` | `X-Original-Method` | its own |
//! | Traefik, Caddy | `X-Forwarded-Uri` | `X-Forwarded-Method` | `X-Forwarded-Host`, else its own |
//!
//! No other header is believed to say it (`X-Forwarded-Proto` and `-For` decide nothing). Every proxy sets
//! its own of these headers and passes the client's copies of the others on, so a part that is named twice
//! must be named alike: else the client could choose the rule it is judged by. What disagrees, stands
//! twice, or leaves a part out is refused as `bad_request`; so nginx must send the method, which its
//! subrequest (always a GET) does not tell.
//!
//! # What the proxy must do
//!
//! Allowed is 200 with the identity headers. A header of ours that has no value is left out, not sent
//! empty: nginx, Traefik and Caddy then drop the client's copy, where an empty one would reach upstreams
//! that take it for an anonymous user's id, or join it with a look-alike.
//!
//! - Envoy: `allowed_upstream_headers` lists the identity headers, and `cookie` where tokens in cookies are
//!   not forwarded: the other cookies are set in its place. The client's copies and look-alikes, and
//!   the token with `token.forward: false`, are removed by `x-envoy-auth-headers-to-remove`, which Envoy
//!   obeys without being told. `allowed_headers` must let through what the decision reads (cookies, API key).
//! - nginx: `auth_request_set` and `proxy_set_header` for each identity header, which drops the client's
//!   copy. Look-alikes are dropped by its defaults (`underscores_in_headers off`, `ignore_invalid_headers
//!   on`). It knows 2xx, 401 and 403 only: 400 and 503 become 500.
//! - Traefik: `authResponseHeaders` deletes the client's copies of the headers it names, look-alikes only
//!   with `authResponseHeadersRegex` (`^x[-_.]user[-_.]id$`).
//! - Caddy: `copy_headers` deletes them from 2.11.2 on only (GHSA-7r4p-vjf4-gxv4); before, and for
//!   look-alikes, `request_header -X-User-Id` must stand before `forward_auth`.
//!
//! Only Envoy can be told to take the token off the request, none can be told to take it out of the query,
//! and for all but Envoy a 204 (`sign_out: {then: respond}`) is leave to go on: the token is revoked, and
//! the request still reaches the upstream.

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Response, header};

use super::{Http, respond};
use crate::api::{Caller, decide, refuse};
use crate::authz::answer::{Answer, Forward, Responder};
use crate::authz::authorizer::Decision;
use crate::authz::denial::Denial;
use crate::authz::rule::{RequestView, host_of};

/// Where Envoy's `path_prefix` points; the original path follows.
pub(super) const PREFIX: &str = "/auth";

const REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

pub(super) async fn forward_auth(State(http): State<Http>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts(); // The body is the upstream's.
    let fields: Vec<_> = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let put = |by_path: bool| {
        move |responder: &Responder, decision: &Decision<'_>, request: &RequestView<'_>| match responder
            .answer(decision, request)
        {
            Answer::Respond(answer) => respond(answer),
            Answer::Forward(forward) => leave(&forward, by_path),
        }
    };
    match Original::read(&parts) {
        Ok(original) => {
            let Original { method, target, host, by_path } = original;
            let view = RequestView { method, target, host, headers: &fields, rule: None, source: source(&parts) };
            decide(&http.state, &view, None, Caller::default(), put(by_path)).await
        }
        Err(denial) => refuse(&http.state, denial, put(false)),
    }
}

/// 200, with what the proxy is to set, and for Envoy what it is to remove.
fn leave(forward: &Forward<'_>, for_envoy: bool) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    for (name, value) in forward.all_set() {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
            headers.insert(name, value);
        }
    }
    if for_envoy && let Ok(names) = HeaderValue::try_from(forward.all_removed().collect::<Vec<_>>().join(",")) {
        headers.insert(REMOVE, names);
    }
    response
}

/// The client's address: the last in `X-Forwarded-For`, which the asking proxy wrote.
fn source(parts: &Parts) -> Option<IpAddr> {
    let field = parts.headers.get_all("x-forwarded-for").iter().next_back()?.to_str().ok()?;
    field.rsplit(',').next()?.trim().parse().ok()
}

/// The request that is asked about.
#[derive(Debug, Eq, PartialEq)]
struct Original<'a> {
    method: &'a str,
    target: &'a str,
    host: &'a str,
    /// Envoy's way of asking.
    by_path: bool,
}

impl<'a> Original<'a> {
    fn read(parts: &'a Parts) -> Result<Self, Denial> {
        let asked = parts.uri.path_and_query().map_or("", |target| target.as_str());
        let by_path = asked.strip_prefix(PREFIX).filter(|rest| rest.starts_with('/'));
        let original_uri = field(parts, "x-original-uri")?;
        let forwarded_host = field(parts, "x-forwarded-host")?;
        let own_method = by_path.map(|_| parts.method.as_str());
        let own_host = match parts.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => field(parts, "host")?,
        };
        // Of a request that was made up for asking, the host is the proxy's word only where it says no other.
        let own_host_counts = by_path.is_some() || original_uri.is_some() || forwarded_host.is_none();

        let target = agreed([by_path, original_uri, field(parts, "x-forwarded-uri")?], |a, b| a == b)?;
        let method =
            agreed([own_method, field(parts, "x-original-method")?, field(parts, "x-forwarded-method")?], |a, b| {
                a == b
            })?;
        let host =
            agreed([own_host.filter(|_| own_host_counts), forwarded_host, None], |a, b| host_of(a) == host_of(b))?;
        let readable = target.starts_with('/')
            && method.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-')
            && !host.contains([',', ' ']);
        readable.then_some(Self { method, target, host, by_path: by_path.is_some() }).ok_or(Denial::BadRequest)
    }
}

/// A field that stands at most once, as text.
fn field<'a>(parts: &'a Parts, name: &str) -> Result<Option<&'a str>, Denial> {
    let mut fields = parts.headers.get_all(name).iter();
    let first = fields.next();
    if fields.next().is_some() {
        return Err(Denial::BadRequest);
    }
    first.map(|value| std::str::from_utf8(value.as_bytes()).map_err(|_| Denial::BadRequest)).transpose()
}

/// What all that say anything say.
fn agreed(said: [Option<&str>; 3], same: impl Fn(&str, &str) -> bool) -> Result<&str, Denial> {
    let mut said = said.into_iter().flatten();
    let first = said.next().filter(|first| !first.is_empty()).ok_or(Denial::BadRequest)?;
    said.all(|other| same(first, other)).then_some(first).ok_or(Denial::BadRequest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(request: &str, expected: Option<&str>) {
        let mut lines = request.split(" | ");
        let (method, uri) = lines.next().unwrap().split_once(' ').unwrap();
        let mut builder = Request::builder().method(method).uri(uri);
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            builder = builder.header(name, value);
        }
        let (parts, ()) = builder.body(()).unwrap().into_parts();
        let read = Original::read(&parts).map(|o| format!("{} {} {}", o.method, o.target, o.host));
        assert_eq!(read.ok().as_deref(), expected, "{request}");
    }

    #[test]
    fn the_request_is_named_in_one_of_three_ways() {
        check("POST /auth/a/b?c=d | host: shop.test", Some("POST /a/b?c=d shop.test"));
        check("GET /auth/ | host: shop.test", Some("GET / shop.test"));
        check("GET /auth//a/../b%2f | host: shop.test", Some("GET //a/../b%2f shop.test"));
        check(
            "GET /auth | host: shop.test | x-original-uri: /a?b | x-original-method: PUT",
            Some("PUT /a?b shop.test"),
        );
        let forwarded = "x-forwarded-uri: /a?b | x-forwarded-method: PUT";
        check(
            &format!("GET /auth | host: doorward:9192 | {forwarded} | x-forwarded-host: shop.test"),
            Some("PUT /a?b shop.test"),
        );
        check(&format!("GET /auth | host: shop.test | {forwarded}"), Some("PUT /a?b shop.test"));
    }

    #[test]
    fn what_is_missing_or_said_twice_is_refused() {
        for request in [
            "GET /auth | host: a",
            "GET /authx | host: a",
            "GET /auth?/x | host: a",
            "GET /auth/x",
            "GET /auth | host: a | x-original-uri: /a",
            "GET /auth | host: a | x-forwarded-uri: /a",
            "GET /auth | host: a | x-forwarded-method: GET",
            "GET /auth | x-original-uri: /a | x-original-method: GET",
            "GET /auth | host: a | x-original-uri: a | x-original-method: GET",
            "GET /auth | host: a | x-original-uri: https://b/a | x-original-method: GET",
            "GET /auth | host: a | x-original-uri: /a | x-original-method: G T",
            "GET /auth | host: a | x-original-uri: /a | x-original-uri: /a | x-original-method: GET",
            "GET /auth | host: a | x-forwarded-uri: /a | x-forwarded-method: GET | x-forwarded-host: a, b",
        ] {
            check(request, None);
        }
    }

    #[test]
    fn a_client_cannot_name_another_request_in_the_way_that_its_proxy_does_not_use() {
        let envoy = "GET /auth/admin | host: a";
        check(&format!("{envoy} | x-forwarded-uri: /admin | x-forwarded-host: A:80"), Some("GET /admin a"));
        for foreign in [
            "x-forwarded-uri: /public",
            "x-original-uri: /public",
            "x-forwarded-method: POST",
            "x-original-method: POST",
            "x-forwarded-host: b",
        ] {
            check(&format!("{envoy} | {foreign}"), None);
        }
        let nginx = "GET /auth | host: a | x-original-uri: /admin | x-original-method: POST";
        for foreign in ["x-forwarded-uri: /public", "x-forwarded-method: GET", "x-forwarded-host: b"] {
            check(&format!("{nginx} | {foreign}"), None);
        }
        let traefik = "GET /auth | host: d | x-forwarded-uri: /admin | x-forwarded-method: POST | x-forwarded-host: a";
        for foreign in ["x-original-uri: /public", "x-original-method: GET", "x-forwarded-host: b"] {
            check(&format!("{traefik} | {foreign}"), None);
        }
    }
}
