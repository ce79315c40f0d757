//! Traps in the connection manager: trusted headers, path normalisation, access logs.

use super::super::Found;
use super::super::model::Model;
use crate::authz::certificate::CertificateSource;

/// `HttpConnectionManager.PathWithEscapedSlashesAction`.
const ESCAPED_SLASHES: [&str; 5] = [
    "IMPLEMENTATION_SPECIFIC_DEFAULT",
    "KEEP_UNCHANGED",
    "REJECT_REQUEST",
    "UNESCAPE_AND_REDIRECT",
    "UNESCAPE_AND_FORWARD",
];

/// The prefix length of fc00::/7: a wider range contains public addresses.
const WIDEST_PRIVATE_RANGE: f64 = 7.0;

/// `HttpConnectionManager.ForwardClientCertDetails`.
const CLIENT_CERTIFICATE: [&str; 5] =
    ["SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY"];

pub(super) fn path_not_normalized(model: &Model<'_>, found: &mut Found) {
    for manager in model.checked().filter(|manager| !manager.node.is("normalize_path")) {
        found.at(&manager.node, "`/./`, `/../` and `%2e` reach Doorward, the routes and the upstream unchanged, and each may read them as another path");
    }
}

pub(super) fn slashes_not_merged(model: &Model<'_>, found: &mut Found) {
    for manager in model.checked().filter(|manager| !manager.node.is("merge_slashes")) {
        found.at(
            &manager.node,
            "`//` reaches Doorward, the routes and the upstream unchanged, and each may read it as another path",
        );
    }
}

pub(super) fn escaped_slashes(model: &Model<'_>, found: &mut Found) {
    for manager in model.checked() {
        let field = manager.node.get("path_with_escaped_slashes_action");
        let action = field.as_ref().and_then(|node| node.choice(&ESCAPED_SLASHES));
        if !matches!(action, Some("UNESCAPE_AND_REDIRECT" | "UNESCAPE_AND_FORWARD" | "REJECT_REQUEST")) {
            let place = field.as_ref().unwrap_or(&manager.node);
            found.at(
                place,
                "`%2F` and `%5C` are kept: `/public%2f..%2fadmin` is one segment here and three for many upstreams",
            );
        }
    }
}

pub(super) fn client_address(model: &Model<'_>, found: &mut Found) {
    for manager in model.checked() {
        let detected = manager.node.get("original_ip_detection_extensions").is_some();
        if !manager.node.is("use_remote_address") && !detected {
            found.at(&manager.node, "a client's own x-forwarded-for is trusted, and with an internal address in it the client's x-envoy-* headers as well");
        }
    }
}

pub(super) fn internal_addresses(model: &Model<'_>, found: &mut Found) {
    for node in model.checked().filter_map(|manager| manager.node.get("internal_address_config")) {
        if node.list("cidr_ranges").next().is_none() {
            found.at(&node, "without ranges it makes loopback and all private addresses internal, and their x-envoy-* headers are trusted");
        }
        for range in node.list("cidr_ranges") {
            // A missing length is 0.
            if range.number("prefix_len").unwrap_or_default() < WIDEST_PRIVATE_RANGE {
                found.at(&range, "clients have addresses in this range too, and their x-envoy-* headers are trusted");
            }
        }
    }
}

pub(super) fn client_certificate_header(model: &Model<'_>, found: &mut Found) {
    for manager in model.checked() {
        let field = manager.node.get("forward_client_cert_details");
        let action = field.as_ref().and_then(|node| node.choice(&CLIENT_CERTIFICATE)).unwrap_or("SANITIZE");
        let is_read = model.expected.certificate == CertificateSource::ForwardedHeader;
        let asks = manager.asks_for_certificate();
        let message = match action {
            // From a gateway, which alone may reach the listener: no file shows that.
            "ALWAYS_FORWARD_ONLY" if is_read && !asks => continue,
            "ALWAYS_FORWARD_ONLY" if is_read => {
                "a client's own x-forwarded-client-cert counts as its certificate (`proxy.client_certificate`)"
            }
            "ALWAYS_FORWARD_ONLY" => {
                "a client's own x-forwarded-client-cert reaches the upstream, whether or not it has a certificate"
            }
            _ if !is_read => continue,
            "SANITIZE_SET" | "FORWARD_ONLY" if asks => continue,
            "APPEND_FORWARD" if asks => {
                "a header that arrives is sent with a second certificate, and Doorward refuses such a header"
            }
            _ => {
                "Envoy removes x-forwarded-client-cert here, from which Doorward reads the client's certificate (`proxy.client_certificate`): every token that is bound to one is refused"
            }
        };
        found.at(field.as_ref().unwrap_or(&manager.node), message);
    }
}

pub(super) fn token_in_access_log(model: &Model<'_>, found: &mut Found) {
    for manager in model.checked() {
        let routers = manager.filters.iter().filter(|filter| filter.config.kind == "Router");
        let upstream_logs = routers.flat_map(|router| router.config.list("upstream_log"));
        for log in manager.node.list("access_log").chain(upstream_logs) {
            log.any(&mut |node| {
                let listed = ["additional_request_headers_to_log", "additional_response_headers_to_log"];
                let listed = listed.into_iter().flat_map(|field| node.list(field));
                let written = Some(node.clone()).filter(|node| node.value.as_str().is_some_and(shows_token));
                for place in listed.filter(|name| name.value.as_str().is_some_and(is_secret)).chain(written) {
                    found.at(
                        &place,
                        "anybody who can read the access log can use the token until it expires or is revoked",
                    );
                }
                false
            });
        }
    }
}

/// Whether a format has a command that writes a token: `%REQ(X?Y):Z%` writes X, or else Y.
fn shows_token(format: &str) -> bool {
    const COMMANDS: [&str; 4] = ["REQ", "REQUEST_HEADER", "RESP", "RESPONSE_HEADER"];
    format.split('%').any(|command| {
        let Some((command, names)) = command.split_once('(') else { return false };
        let names = names.split_once(')').map_or(names, |(names, _)| names);
        COMMANDS.contains(&command) && names.split('?').any(is_secret)
    })
}

fn is_secret(header: &str) -> bool {
    let secret = ["authorization", "cookie", "proxy-authorization", "set-cookie"];
    secret.iter().any(|name| name.eq_ignore_ascii_case(header))
}
