//! `ANY /auth` and `/auth/*`: the same decision for proxies that use HTTP.
//!
//! The original request is described in one of these ways:
//!
//! | | path and query | method | host |
//! | --- | --- | --- | --- |
//! | Envoy's HTTP ext_authz with `path_prefix: /auth` | the rest after `/auth` | that of the request to `/auth` | its own |
//! | Envoy's with `path_override: /auth` | `X-Original-URI` | `X-Original-Method` | its own |
//! | nginx auth_request | `X-Original-URI` | `X-Original-Method` | its own |
//! | Traefik, Caddy | `X-Forwarded-Uri` | `X-Forwarded-Method` | `X-Forwarded-Host`, else its own |
//!
//! No other header is used (`X-Forwarded-For` decides nothing, and `X-Forwarded-Proto` only which URI a DPoP proof
//! must name). Every proxy sets its own of these headers and passes the client's copies of the others on, so two
//! headers for one part must agree: else the client could choose the rule that applies to it. A request whose
//! headers disagree, are repeated or leave a part out is refused as `bad_request`; so nginx must send the method,
//! because its subrequest is always a GET.
//!
//! # The proxy's part
//!
//! An allowed request is answered 200 with the identity headers. An identity header without a value is left out,
//! not sent empty: nginx, Traefik and Caddy then drop the client's copy. An empty header would reach upstreams that
//! read it as the id of an anonymous user, or join it with a look-alike.
//!
//! - Envoy: `allowed_upstream_headers` lists the identity headers, and `cookie` where tokens in cookies are not
//!   forwarded: the other cookies are set in its place. The client's copies and look-alikes, and the token with
//!   `token.forward: false`, are removed by `x-envoy-auth-headers-to-remove`, which Envoy applies without
//!   configuration (every answer has it: Envoy with `path_override` sends the same request as nginx, and the other
//!   proxies ignore it). `allowed_headers` must list the other headers that the decision reads (cookies, API key).
//! - nginx: `auth_request_set` and `proxy_set_header` for each identity header, which drops the client's copy.
//!   Look-alikes are dropped by its defaults (`underscores_in_headers off`, `ignore_invalid_headers on`). nginx
//!   accepts 2xx, 401 and 403 only: 400 and 503 become 500.
//! - Traefik: `authResponseHeaders` deletes the client's copies of the headers it names, look-alikes only
//!   with `authResponseHeadersRegex` (`^x[-_.]user[-_.]id$`).
//! - Caddy: `copy_headers` deletes them from 2.11.2 on only (GHSA-7r4p-vjf4-gxv4); before, and for
//!   look-alikes, `request_header -X-User-Id` must stand before `forward_auth`.
//!
//! Only Envoy can remove the token from the request's headers, and no proxy can remove it from the query. All
//! proxies but Envoy read a 204 (`sign_out: {then: respond}`) as allowed: the token is revoked, and the request
//! still reaches the upstream.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, header};

use super::{Http, respond};
use crate::api::{Flaw, Query, decide, refuse};
use crate::authz::answer::{Answer, Forward, Responder};
use crate::authz::authorizer::Decision;
use crate::authz::denial::Denial;
use crate::authz::rule::{RequestView, Source, host_of};

/// The value of Envoy's `path_prefix`; the original path follows.
pub(super) const PREFIX: &str = "/auth";

mod kept;

const REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

pub(super) async fn forward_auth(State(http): State<Http>, request: Request) -> Response<Body> {
    let (parts, _) = request.into_parts(); // The body is the upstream's.
    let fields: Vec<_> = parts.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    // Before the decision: its view is at least as fresh.
    let (view_age, began) = (http.state.view().age, Instant::now());
    let put = |responder: &Responder, decision: &Decision<'_>, request: &RequestView<'_>| {
        let policy = http.state.policy();
        let kept = kept::longest(&policy, decision, view_age.map(|age| age.saturating_add(began.elapsed())));
        match responder.answer(decision, request) {
            Answer::Respond(answer) => respond(answer),
            Answer::Forward(forward) => leave(&forward, kept, &kept::varies(&policy)),
        }
    };
    match Original::read(&parts) {
        Ok(Original { method, target, host }) => {
            let scheme = scheme(&parts.headers).unwrap_or_default();
            let source = source(&parts);
            let view = RequestView { method, target, host, scheme, headers: &fields, source, ..RequestView::NOTHING };
            decide(Query::new(&http.state, &view), put).await
        }
        Err(detail) => {
            let flaw = Flaw { detail: &detail, request: &RequestView { headers: &fields, ..RequestView::NOTHING } };
            refuse(&http.state, Denial::BadRequest, Some(flaw), put)
        }
    }
}

/// 200, with the headers that the proxy sets, and the list of those that Envoy removes.
fn leave(forward: &Forward<'_>, kept: Option<Duration>, varies: &str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let max_age = kept.and_then(|kept| HeaderValue::try_from(format!("max-age={}", kept.as_secs())).ok());
    if let Some((max_age, varies)) = max_age.zip(HeaderValue::try_from(varies).ok()) {
        headers.insert(header::CACHE_CONTROL, max_age);
        headers.insert(header::VARY, varies);
    }
    for (name, value) in forward.all_set() {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value.as_bytes())) {
            headers.insert(name, value);
        }
    }
    if let Ok(names) = HeaderValue::try_from(forward.all_removed().collect::<Vec<_>>().join(",")) {
        headers.insert(REMOVE, names);
    }
    response
}

/// The client's scheme, according to the proxy; rules do not use it, only DPoP proofs name it.
pub(super) fn scheme(headers: &HeaderMap) -> Option<&str> {
    let mut fields = headers.get_all("x-forwarded-proto").iter();
    let scheme = fields.next()?.to_str().ok()?;
    fields.next().is_none().then_some(scheme)
}

/// The client's address: the last in `X-Forwarded-For`, which the proxy wrote.
fn source(parts: &Parts) -> Source<'_> {
    let field = parts.headers.get_all("x-forwarded-for").iter().next_back().map_or(&[][..], HeaderValue::as_bytes);
    Source(field.rsplit(|b| *b == b',').next().unwrap_or_default().trim_ascii())
}

/// The original request.
#[derive(Debug, Eq, PartialEq)]
struct Original<'a> {
    method: &'a str,
    target: &'a str,
    host: &'a str,
}

/// One part of the original request: header name and value.
type Named<'a> = (&'static str, Option<&'a str>);

impl<'a> Original<'a> {
    /// Reads the original request; an error names the missing or contradictory header, without its value.
    fn read(parts: &'a Parts) -> Result<Self, Cow<'static, str>> {
        let asked = parts.uri.path_and_query().map_or("", |target| target.as_str());
        let by_path = asked.strip_prefix(PREFIX).filter(|rest| rest.starts_with('/'));
        let original_uri = field(parts, "x-original-uri")?;
        let forwarded_host = field(parts, "x-forwarded-host")?;
        let own_method = by_path.map(|_| parts.method.as_str());
        let own_host = match parts.uri.authority() {
            Some(authority) => Some(authority.as_str()),
            None => field(parts, "host")?.1,
        };
        // The host of a proxy's own subrequest counts only where no header names the original host.
        let own_host_counts = by_path.is_some() || original_uri.1.is_some() || forwarded_host.1.is_none();

        let path = ("the path after /auth", by_path);
        let target = agreed([path, original_uri, field(parts, "x-forwarded-uri")?], |a, b| a == b)?;
        let asking = ("the method of the request to /auth", own_method);
        let methods = [asking, field(parts, "x-original-method")?, field(parts, "x-forwarded-method")?];
        let method = agreed(methods, |a, b| a == b)?;
        let hosts = [("host", own_host.filter(|_| own_host_counts)), forwarded_host, ("", None)];
        let host = agreed(hosts, |a, b| host_of(a) == host_of(b))?;
        if !target.starts_with('/') {
            Err("the URI must be a path that begins with `/`".into())
        } else if !method.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-') {
            Err("the method must be a token (RFC 9110 section 5.6.2)".into())
        } else if host.contains([',', ' ']) {
            Err("x-forwarded-host must name one host".into())
        } else {
            Ok(Self { method, target, host })
        }
    }
}

/// A header field that occurs at most once, as text.
fn field<'a>(parts: &'a Parts, name: &'static str) -> Result<Named<'a>, Cow<'static, str>> {
    let mut fields = parts.headers.get_all(name).iter();
    let first = fields.next();
    if fields.next().is_some() {
        return Err(format!("{name} is repeated").into());
    }
    let text = first.map(|value| std::str::from_utf8(value.as_bytes())).transpose();
    Ok((name, text.map_err(|_| format!("{name} is not UTF-8 text"))?))
}

/// The value that all headers agree on.
fn agreed(named: [Named<'_>; 3], same: impl Fn(&str, &str) -> bool) -> Result<&str, Cow<'static, str>> {
    let mut given = named.iter().filter_map(|(place, text)| Some((place, (*text)?)));
    let Some((place, first)) = given.next().filter(|(_, first)| !first.is_empty()) else {
        let places = named.iter().map(|(place, _)| *place).filter(|place| !place.is_empty());
        return Err(format!("one of these is needed: {}", places.collect::<Vec<_>>().join(", ")).into());
    };
    match given.find(|(_, other)| !same(first, other)) {
        Some((other, _)) => Err(format!("{place} and {other} differ").into()),
        None => Ok(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(request: &str) -> Result<String, Cow<'static, str>> {
        let mut lines = request.split(" | ");
        let (method, uri) = lines.next().unwrap().split_once(' ').unwrap();
        let mut builder = Request::builder().method(method).uri(uri);
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            builder = builder.header(name, value);
        }
        let (parts, ()) = builder.body(()).unwrap().into_parts();
        Original::read(&parts).map(|o| format!("{} {} {}", o.method, o.target, o.host))
    }

    #[track_caller]
    fn check(request: &str, expected: Option<&str>) {
        assert_eq!(read(request).ok().as_deref(), expected, "{request}");
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
    fn missing_and_repeated_parts_are_refused() {
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
    fn a_refusal_names_missing_or_different_parts() {
        for (request, detail) in [
            ("GET /auth | host: a", "one of these is needed: the path after /auth, x-original-uri, x-forwarded-uri"),
            (
                "GET /auth | host: a | x-original-uri: /a",
                "one of these is needed: the method of the request to /auth, x-original-method, x-forwarded-method",
            ),
            ("GET /auth/x", "one of these is needed: host, x-forwarded-host"),
            ("GET /auth/x | host: a | x-forwarded-uri: /y", "the path after /auth and x-forwarded-uri differ"),
            ("GET /auth/x | host: a | x-forwarded-host: b", "host and x-forwarded-host differ"),
            ("GET /auth/x | host: a | x-original-uri: /x | x-original-uri: /x", "x-original-uri is repeated"),
            (
                "GET /auth | host: a | x-original-uri: x | x-original-method: GET",
                "the URI must be a path that begins with `/`",
            ),
        ] {
            assert_eq!(read(request).unwrap_err(), detail, "{request}");
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
