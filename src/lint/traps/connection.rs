//! What the connection manager believes, and how it writes paths and logs.

use super::super::Found;
use super::super::scene::Scene;

/// `HttpConnectionManager.PathWithEscapedSlashesAction`.
const ESCAPED_SLASHES: [&str; 5] = [
    "IMPLEMENTATION_SPECIFIC_DEFAULT",
    "KEEP_UNCHANGED",
    "REJECT_REQUEST",
    "UNESCAPE_AND_REDIRECT",
    "UNESCAPE_AND_FORWARD",
];

/// `HttpConnectionManager.ForwardClientCertDetails`.
const CLIENT_CERTIFICATE: [&str; 5] =
    ["SANITIZE", "FORWARD_ONLY", "APPEND_FORWARD", "SANITIZE_SET", "ALWAYS_FORWARD_ONLY"];

pub(super) fn path_not_normalized(scene: &Scene<'_>, found: &mut Found) {
    for manager in scene.checked().filter(|manager| !manager.node.is("normalize_path")) {
        found.at(&manager.node, "`/./`, `/../` and `%2e` reach Doorward, the routes and the upstream as they are, and each may read them as another path");
    }
}

pub(super) fn slashes_not_merged(scene: &Scene<'_>, found: &mut Found) {
    for manager in scene.checked().filter(|manager| !manager.node.is("merge_slashes")) {
        found.at(
            &manager.node,
            "`//` reaches Doorward, the routes and the upstream as it is, and each may read it as another path",
        );
    }
}

pub(super) fn escaped_slashes(scene: &Scene<'_>, found: &mut Found) {
    for manager in scene.checked() {
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

pub(super) fn client_address(scene: &Scene<'_>, found: &mut Found) {
    for manager in scene.checked() {
        let detected = manager.node.get("original_ip_detection_extensions").is_some();
        if !manager.node.is("use_remote_address") && !detected {
            found.at(&manager.node, "a client's own x-forwarded-for is believed, and with an internal address in it its x-envoy-* headers as well");
        }
    }
}

pub(super) fn internal_addresses(scene: &Scene<'_>, found: &mut Found) {
    for node in scene.checked().filter_map(|manager| manager.node.get("internal_address_config")) {
        if node.list("cidr_ranges").next().is_none() {
            found.at(&node, "without ranges it makes loopback and all private addresses internal, and their x-envoy-* headers are believed");
        }
    }
}

pub(super) fn client_certificate_header(scene: &Scene<'_>, found: &mut Found) {
    for node in scene.checked().filter_map(|manager| manager.node.get("forward_client_cert_details")) {
        if node.choice(&CLIENT_CERTIFICATE) == Some("ALWAYS_FORWARD_ONLY") {
            found.at(
                &node,
                "a client's own x-forwarded-client-cert reaches the upstream, whether or not it has a certificate",
            );
        }
    }
}

pub(super) fn token_in_access_log(scene: &Scene<'_>, found: &mut Found) {
    let secret = ["%req(authorization", "%req(cookie", "%req(proxy-authorization", "%resp(set-cookie"];
    for manager in scene.checked() {
        for log in manager.node.list("access_log") {
            log.any(&mut |node| {
                let text = node.value.as_str().unwrap_or_default().to_ascii_lowercase();
                if secret.iter().any(|word| text.contains(word)) {
                    found.at(node, "whoever reads the access log can use the token until it expires or is revoked");
                }
                false
            });
        }
    }
}
