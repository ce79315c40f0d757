//! The cluster of Doorward.

use std::net::IpAddr;

use super::super::Found;
use super::super::model::{Model, addresses};
use super::super::node::Node;

const HTTP: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// With a lower limit, Envoy itself answers 503 to a part of a burst.
const ENOUGH_REQUESTS: f64 = 4096.0;

pub(super) fn cluster_unknown(model: &Model<'_>, found: &mut Found) {
    if model.more_clusters || model.clusters.is_empty() {
        return;
    }
    for node in model.services().filter_map(|service| service.cluster) {
        let name = node.value.as_str().unwrap_or_default();
        if !model.clusters.contains_key(name) {
            found.at(&node, format!("there is no cluster `{name}`: every call fails"));
        }
    }
}

pub(super) fn cluster_http1(model: &Model<'_>, found: &mut Found) {
    for (cluster, grpc) in model.asked().into_values() {
        if grpc && http2(&cluster).is_none() {
            found.at(&cluster, "gRPC needs HTTP/2, and this cluster uses HTTP/1.1: every call fails");
        }
    }
}

pub(super) fn cluster_keepalive(model: &Model<'_>, found: &mut Found) {
    for (cluster, _) in model.asked().into_values() {
        if let Some(options) = http2(&cluster).filter(|options| options.get("connection_keepalive").is_none()) {
            found.at(
                &options,
                "calls to a Doorward that is frozen, or gone without a FIN, fail only when TCP gives up: minutes of 503",
            );
        }
    }
}

pub(super) fn cluster_circuit_breaker(model: &Model<'_>, found: &mut Found) {
    for (cluster, _) in model.asked().into_values() {
        let is_high = |t: &Node<'_>| t.get("priority").is_some_and(|p| p.choice(&["DEFAULT", "HIGH"]) == Some("HIGH"));
        let threshold = cluster.list("circuit_breakers.thresholds").find(|t| !is_high(t));
        let limit = |field: &str| threshold.as_ref().and_then(|t| t.number(field)).unwrap_or(1024.0);
        let limit = limit("max_requests").min(limit("max_pending_requests"));
        if limit < ENOUGH_REQUESTS {
            let place = threshold.as_ref().unwrap_or(&cluster);
            found.at(
                place,
                format!(
                    "max_requests or max_pending_requests is {limit}: further concurrent checks or streams, in a burst or while Doorward is slow, fail"
                ),
            );
        }
    }
}

pub(super) fn cluster_plaintext(model: &Model<'_>, found: &mut Found) {
    const CLEAR: &str = "tokens cross a network in clear text, and an attacker on it can answer in Doorward's place";
    for (cluster, _) in model.asked().into_values() {
        let host = |address: &Node<'_>| is_far(address.text("socket_address.address").unwrap_or_default());
        let Some(address) = addresses(&cluster).find(host) else { continue };
        match cluster.get("transport_socket") {
            Some(socket) if is_clear(&socket) => found.at(&socket, CLEAR),
            Some(socket) if is_unverified(&socket) => {
                found.at(&socket, "no CA is configured here: an attacker on the network can answer in Doorward's place, and receives the tokens");
            }
            None if cluster.get("transport_socket_matches").is_none() => found.at(&address, CLEAR),
            _ => {}
        }
    }
    for service in model.services() {
        let Some(google) = service.node.get("google_grpc") else { continue };
        let credentials = ["channel_credentials", "channel_credentials_plugin"];
        let clear = credentials.iter().all(|field| google.get(field).is_none());
        if let Some(target) = google.get("target_uri").filter(|_| clear)
            && is_far(host_of_target(target.value.as_str().unwrap_or_default()))
        {
            found.at(&target, CLEAR);
        }
    }
}

fn is_far(host: &str) -> bool {
    let loopback = |ip: IpAddr| ip.to_canonical().is_loopback(); // ::ffff:127.0.0.1 too.
    !host.is_empty() && host != "localhost" && !host.parse().is_ok_and(loopback)
}

/// The host of `host:port`, `dns:///host:port` or `ipv6:[::1]:port`; `None` for a Unix socket.
fn host_of_target(target: &str) -> &str {
    if target.starts_with("unix:") || target.starts_with("unix-abstract:") {
        return "";
    }
    let target = target.rsplit('/').next().unwrap_or_default();
    let target = ["dns:", "ipv4:", "ipv6:"].iter().find_map(|scheme| target.strip_prefix(scheme)).unwrap_or(target);
    let host = target.rsplit_once(':').map_or(target, |(host, _)| host);
    host.trim_matches(['[', ']'])
}

fn is_clear(socket: &Node<'_>) -> bool {
    socket.get("typed_config").is_some_and(|config| config.kind == "RawBuffer")
}

/// Whether no setting names the trusted certificates; a validation context from SDS is not
/// checked.
fn is_unverified(socket: &Node<'_>) -> bool {
    const TRUST_FIELDS: [&str; 7] = [
        "trusted_ca",
        "system_root_certs",
        "ca_certificate_provider_instance",
        "custom_validator_config",
        "verify_certificate_spki",
        "verify_certificate_hash",
        "validation_context_sds_secret_config",
    ];
    let names_trust =
        |config: &Node<'_>| config.any(&mut |node| TRUST_FIELDS.iter().any(|field| node.get(field).is_some()));
    socket.get("typed_config").is_some_and(|config| config.kind == "UpstreamTlsContext" && !names_trust(&config))
}

pub(super) fn cluster_outlier(model: &Model<'_>, found: &mut Found) {
    for (cluster, _) in model.asked().into_values() {
        if let Some(node) =
            cluster.get("outlier_detection").filter(|_| addresses(&cluster).count() == 1 && is_static(&cluster))
        {
            found.at(
                &node,
                "there is one Doorward here: ejecting it turns a few slow answers into an outage, or does nothing",
            );
        }
    }
}

pub(super) fn cluster_health(model: &Model<'_>, found: &mut Found) {
    for (cluster, _) in model.asked().into_values() {
        let several = addresses(&cluster).count() > 1 || kind(&cluster) == Some("STRICT_DNS");
        if several && cluster.list("health_checks").next().is_none() {
            found.at(&cluster, "without health checks a Doorward that is stopping, or not ready, still receives calls: a rolling restart causes errors");
        }
    }
}

/// The HTTP/2 options of a cluster, if it uses HTTP/2.
fn http2<'a>(cluster: &Node<'a>) -> Option<Node<'a>> {
    let fields = [
        "explicit_http_config.http2_protocol_options",
        "use_downstream_protocol_config.http2_protocol_options",
        "auto_config.http2_protocol_options",
    ];
    // The name of the options contains dots.
    let options = cluster
        .get("typed_extension_protocol_options")
        .and_then(|options| Some(Node::new(options.path.key(HTTP), options.value.get(HTTP)?)));
    let written = options.and_then(|options| fields.into_iter().find_map(|field| options.at(field)));
    written.or_else(|| cluster.get("http2_protocol_options")) // The spelling before Envoy 1.17.
}

fn is_static(cluster: &Node<'_>) -> bool {
    matches!(kind(cluster), None | Some("STATIC"))
}

fn kind(cluster: &Node<'_>) -> Option<&'static str> {
    cluster.get("type")?.choice(&["STATIC", "STRICT_DNS", "LOGICAL_DNS", "EDS", "ORIGINAL_DST"])
}
