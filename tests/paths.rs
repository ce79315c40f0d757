//! Path confusion: no spelling of a path gets from an open rule to a protected resource, or past the
//! requirements of a protecting rule; for the loosest upstream there is, with Envoy's normalisation and
//! without it.

use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::grpc::{Checks, ask};
use crate::support::raw::{self, RawUpstream};
use crate::support::tokens::Tokens;

pub const RULES: &str = r"
rules:
  - {name: closed, match: {path: /public/closed}, require: {scopes: [admin]}}
  - {name: health, match: {path: /healthz, methods: [GET]}, access: public}
  - {name: public, match: {path_prefix: /public}, access: public}
  - {name: capital, match: {path_prefix: /Static}, access: public}
  - {name: small, match: {path_prefix: /static/closed}, require: {scopes: [admin]}}
  - {name: assets, match: {path_regex: '/assets/.*[.]png|.*[.]ico'}, access: public}
  - {name: optional, match: {path_prefix: /optional}, access: optional}
  - {name: refresh, match: {path_prefix: /auth/refresh}, access: refresh}
  - {name: logout, match: {path_prefix: /auth/logout}, access: sign_out}
  - {name: shadow, match: {path_prefix: /shadow}, enforce: false}
  - {name: host, match: {path_prefix: /, hosts: [open.example.com]}, access: public}
  - {name: docs, match: {path_prefix: /docs, methods: [GET]}, access: public}
  - {name: admin, match: {path_prefix: /admin}, require: {scopes: [admin]}}
  - {name: by-route, access: public}
";

/// The paths of the open rules; Envoy's route names the last.
const ENTRIES: [&str; 10] = [
    "/healthz",
    "/public",
    "/public/x",
    "/Static/x",
    "/assets/x.png",
    "/optional/x",
    "/auth/refresh",
    "/auth/logout",
    "/shadow/x",
    "/by-route/x",
];

/// From an open path (`@`), by the step in braces as often as the path is deep, to a protected resource.
const FORMS: [&str; 98] = [
    // @ots, plain and encoded once, twice, three times, in part.
    "@{/..}/admin/users",
    "@{/%2e%2e}/admin/users",
    "@{/%2E%2E}/admin/users",
    "@{/.%2e}/admin/users",
    "@{/%2e.}/admin/users",
    "@{/%252e%252e}/admin/users",
    "@{/.%252e}/admin/users",
    "@{/%25252e%25252e}/admin/users",
    "@{/%2525252e%2525252e}/admin/users",
    "@/.{/..}/admin/users",
    "@/./x/..{/..}/admin/users",
    "@{/../.}/admin/users",
    "@{/%2e/%2e%2e}/admin/users",
    "@{/..}/../../../admin/users",
    // Encoded slashes.
    "@{%2f..}%2fadmin%2fusers",
    "@{/..%2f}/admin/users",
    "@{/%2e%2e%2f}admin/users",
    "@{%2F%2e%2e}%2Fadmin/users",
    "@{%252f..}%252fadmin%252fusers",
    "@{%252f%252e%252e}%252fadmin/users",
    "@{%25252f..}%25252fadmin/users",
    "@{/..}%2fadmin/users",
    // @ouble slashes.
    "@/{/..}//admin/users",
    "@{//..}/../admin/users",
    "//admin/users",
    "///admin//users",
    "/%2fadmin/users",
    "/.//admin/users",
    "//host/admin/users",
    "//host/..//admin/users",
    "/\\host/admin/users",
    // Parameters.
    "@{/..;}/admin/users",
    "@{/..;a=b}/admin/users",
    "@{/;/..}/../admin/users",
    "@;x{/..}/admin/users",
    "@;/{..}/../../admin/users",
    "@{/..%3b}/admin/users",
    "@{/..%3Ba=b}/admin/users",
    "@{/..%253b}/admin/users",
    "@{/%2e%2e;}/admin/users",
    "@{/.;/..}/admin/users",
    "/admin;@/users",
    "/admin;.png",
    "/admin;x=.png/users",
    "/;/admin/users",
    "/;@{/..}/admin/users",
    // Backslashes.
    "@{\\..}\\admin\\users",
    "@{/..\\}admin/users",
    "@{%5c..}%5cadmin%5cusers",
    "@{%5C%2e%2e}%5Cadmin/users",
    "@{%255c..}%255cadmin/users",
    "\\admin\\users",
    "/\\admin/users",
    "@{/..%5c}/admin/users",
    // Control bytes.
    "@%00{/..}/admin/users",
    "@{/..%00}/admin/users",
    "/admin%00@",
    "/admin%00.png",
    "/admin%00.ico",
    "@%0a{/..}/admin/users",
    "@%0d%0a{/..}/admin/users",
    "@{/..%09}/admin/users",
    "@%7f{/..}/admin/users",
    // Fragments and queries, encoded and not.
    "@#{/..}/admin/users",
    "@%23{/..}/admin/users",
    "@%2523{/..}/admin/users",
    "@%3f{/..}/admin/users",
    "/admin%3f.png",
    "/admin%3f.ico",
    "/admin%23.ico",
    "/admin%253f.ico",
    "/admin%3f@",
    "/admin%23@",
    "/admin/users?@",
    "/admin/users?x=@&.png",
    "/admin/users#@",
    "/admin/users?.ico",
    // Letter case.
    "/ADMIN/users",
    "/Admin/Users",
    "/aDMIN",
    "/public/CLOSED",
    "/public/Closed/",
    "/Static/closed/x",
    "/Static/Closed",
    "/public/close%44",
    // Trailing characters.
    "/public/closed/",
    "/public/closed.",
    "/public/closed%20",
    "/public/closed%2e",
    "/public/closed/.",
    "/public/./closed",
    "@{/..%20}/admin/users",
    // Beyond ASCII.
    "@{/%c0%ae%c0%ae}/admin/users",
    "@{/..}%c0%afadmin/users",
    "@{%e0%80%af..}/admin/users",
    "@{/%EF%BC%8E%EF%BC%8E}/admin/users",
    "/%EF%BC%A1dmin/users",
    // Absolute form.
    "http://shop.example.com/admin/users",
];

/// The form with its open path, and the step in braces as often as needed.
fn spell(form: &str, entry: &str) -> String {
    let text = form.replace('@', entry);
    let Some((before, rest)) = text.split_once('{') else { return text };
    let (step, after) = rest.split_once('}').unwrap();
    format!("{before}{}{after}", step.repeat(entry.matches('/').count()))
}

/// Every resource that some upstream may serve for a target: it decodes up to four times, with or without overlong
/// sequences and full-width forms, ends at the query by its own reading or does not, strips parameters or not, folds
/// `\` or not, resolves dots and drops trailing characters or not, and ignores case.
fn resources(target: &str) -> Vec<String> {
    let path = target.split('?').next().unwrap();
    let authority = path.trim_start_matches("http:");
    let behind = authority
        .strip_prefix("//")
        .or(authority.strip_prefix("/\\"))
        .and_then(|rest| rest.find('/').map(|at| &rest[at..]));
    let mut found = Vec::new();
    for start in [Some(path), behind].into_iter().flatten() {
        let mut text = start.to_owned();
        for _ in 0..5 {
            for choice in 0..16_u8 {
                let chosen = |bit: u8| choice & 1 << bit != 0;
                let cut = if chosen(0) { text.split(['?', '#', '\0']).next().unwrap() } else { &text };
                let slashes = if chosen(1) { cut.replace('\\', "/") } else { cut.to_owned() };
                let mut segments = Vec::new();
                for segment in slashes.split('/') {
                    let segment =
                        if chosen(2) { segment.split([';', '?', '#', '\0']).next().unwrap() } else { segment };
                    let bare = segment.trim_end_matches([' ', '\t', '\r', '\n', '\u{7f}']);
                    match bare {
                        ".." if chosen(3) => drop(segments.pop()),
                        _ if chosen(3) && bare.trim_end_matches('.').is_empty() => {}
                        _ if chosen(3) => segments.push(bare.trim_end_matches('.')),
                        _ => segments.push(segment),
                    }
                }
                found.push(format!("/{}", segments.join("/")).to_lowercase());
            }
            text = decoded(&text);
        }
    }
    found
}

/// Decoded once, as the most forgiving decoders do.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        bytes.extend_from_slice(&rest.as_bytes()[..at]);
        let byte = rest.get(at + 1..at + 3).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(byte.unwrap_or(b'%'));
        rest = &rest[at + if byte.is_some() { 3 } else { 1 }..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    for (overlong, plain) in [(&b"\xc0\xae"[..], b'.'), (b"\xc0\xaf", b'/'), (b"\xe0\x80\xaf", b'/')] {
        while let Some(at) = bytes.windows(overlong.len()).position(|window| window == overlong) {
            bytes.splice(at..at + overlong.len(), [plain]);
        }
    }
    let wide = |c: char| char::from_u32(u32::from(c).wrapping_sub(0xfee0)).filter(char::is_ascii_graphic).unwrap_or(c);
    String::from_utf8_lossy(&bytes).chars().map(|c| if c >= '\u{ff01}' { wide(c) } else { c }).collect()
}

/// Whether some upstream would serve a resource that the rules `admin`, `closed` or `small` protect.
fn reaches_protected(target: &str) -> bool {
    let below = |path: &str, prefix: &str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    resources(target)
        .iter()
        .any(|path| below(path, "/admin") || below(path, "/static/closed") || path == "/public/closed")
}

/// Each form from each open path; a path of Envoy's routes only where Envoy selects the route.
pub fn attacks() -> impl Iterator<Item = (&'static str, String)> {
    let all = ENTRIES.iter().flat_map(|entry| FORMS.iter().map(move |form| (*entry, spell(form, entry))));
    all.filter(|(entry, target)| !is_routed(entry) || is_routed(target))
}

fn is_routed(path: &str) -> bool {
    path.starts_with("/by-route/")
}

#[test]
fn every_form_leads_some_upstream_to_a_protected_resource() {
    for form in FORMS {
        assert!(reaches_protected(&spell(form, "/public/x")), "{form} proves nothing");
    }
    for entry in ENTRIES {
        assert!(!reaches_protected(entry), "{entry}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_opens_a_protected_resource() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(RULES)).await;
    let checks = Checks::connect(&doorward.check).await;
    let user = tokens.of("alice");
    let admin = tokens.with(serde_json::json!({"scope": "admin"}));
    for (entry, target) in attacks() {
        let rule = is_routed(entry).then_some("by-route");
        let ask = |method| rule.into_iter().fold(ask(method, &target), crate::support::grpc::Ask::rule);
        for method in ["GET", "POST", "HEAD", "OPTIONS", "get"] {
            let verdict = checks.check(ask(method)).await;
            assert_eq!(verdict.status, 401, "{method} {target}: without a token: {verdict:?}");
        }
        let verdict = checks.check(ask("GET").token(&user)).await;
        assert_eq!(verdict.status, 403, "{target}: without the scope: {verdict:?}");
        let verdict = checks.check(ask("GET").token(&admin)).await;
        assert!(verdict.allowed(), "{target}: with the scope: {verdict:?}");
    }
    for entry in ENTRIES {
        let rule = is_routed(entry).then_some("by-route");
        let method = if entry.starts_with("/auth") { "POST" } else { "GET" };
        let verdict = checks.check(rule.into_iter().fold(ask(method, entry), crate::support::grpc::Ask::rule)).await;
        // A sign-out needs a token.
        assert_eq!(verdict.status, if entry == "/auth/logout" { 401 } else { 200 }, "{entry}: {verdict:?}");
    }
}

/// The same through Envoy, byte for byte as an attacker writes it, with Envoy's normalisation and without.
#[tokio::test(flavor = "multi_thread")]
async fn no_spelling_reaches_a_protected_resource_behind_envoy() {
    let Some(binary) = envoy::binary() else { return };
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(RULES)).await;
    let upstream = RawUpstream::start().await;
    let text = std::fs::read_to_string(format!("{}/envoy/edge-tcp.yaml", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (_, port) = doorward.check.rsplit_once(':').unwrap();
    let all = "                        - match: {prefix: /}\n";
    let by_route = r#"                        - match: {prefix: /by-route/}
                          route: {cluster: upstream}
                          typed_per_filter_config:
                            envoy.filters.http.ext_authz:
                              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                              check_settings: {context_extensions: {doorward.rule: by-route}}
"#;
    let normalising = text
        .replace("port_value: 10000", "port_value: 0")
        .replace("port_value: 9901", "port_value: 0")
        .replace("port_value: 8080", &format!("port_value: {}", upstream.address.port()))
        .replace("port_value: 9191", &format!("port_value: {port}"))
        .replace(all, &format!("{by_route}{all}"));
    assert!(normalising.contains("context_extensions"));
    let raw_paths = normalising
        .replace("normalize_path: true", "normalize_path: false")
        .replace("merge_slashes: true", "merge_slashes: false")
        .replace("UNESCAPE_AND_REDIRECT", "KEEP_UNCHANGED");
    let user = format!("Bearer {}", tokens.of("alice"));
    for (what, text) in [("normalising", &normalising), ("raw", &raw_paths)] {
        let envoy = Envoy::start_text(&binary, text).await;
        let mut arrived = 0;
        for (_, target) in attacks() {
            for headers in
                [&[("host", "shop.example.com")][..], &[("host", "shop.example.com"), ("authorization", &user)]]
            {
                let status = raw::send(envoy.address, "GET", &target, headers).await;
                for served in upstream.take() {
                    arrived += 1;
                    assert!(
                        !reaches_protected(&served),
                        "{what}: {target} arrived as {served} ({status}, {headers:?})"
                    );
                }
            }
        }
        eprintln!("{what}: {} requests, {arrived} harmless ones arrived", 2 * attacks().count());
        // Envoy does let requests through: the open paths are allowed, and the raw ones arrive unchanged.
        for entry in ENTRIES.iter().filter(|entry| !entry.starts_with("/auth")) {
            assert_eq!(
                raw::send(envoy.address, "GET", entry, &[("host", "shop.example.com")]).await,
                200,
                "{what}: {entry}"
            );
            assert_eq!(upstream.take(), [*entry]);
        }
    }
}

/// Hosts and methods open only as they are written, and protect as servers may read them.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_and_methods_open_only_as_written() {
    let tokens = Tokens::new();
    let doorward = Doorward::start(&tokens.config(RULES)).await;
    let checks = Checks::connect(&doorward.check).await;
    for (method, host, path, status) in [
        ("GET", "open.example.com", "/any", 200),
        ("POST", "OPEN.example.com.:8443", "/any", 200),
        ("GET", "open.example.com", "/a/../b", 401),
        ("GET", "open.example.com.evil.test", "/any", 401),
        ("GET", "open.example.com@shop.example.com", "/any", 401),
        ("GET", "shop.example.com@open.example.com", "/any", 401),
        ("GET", "open.example.com:80@shop.example.com", "/any", 401),
        ("GET", "notopen.example.com", "/any", 401),
        ("GET", "open.example.com/", "/any", 401),
        ("GET", "", "/any", 401),
        ("GET", "shop.example.com", "/docs/x", 200),
        ("HEAD", "shop.example.com", "/docs/x", 200),
        ("get", "shop.example.com", "/docs/x", 401),
        ("POST", "shop.example.com", "/docs/x", 401),
        ("OPTIONS", "shop.example.com", "/docs/x", 401),
        ("GET ", "shop.example.com", "/docs/x", 401),
    ] {
        let verdict = checks.check(ask(method, path).host(host)).await;
        assert_eq!(verdict.status, status, "{method} {host} {path}: {verdict:?}");
    }
}
