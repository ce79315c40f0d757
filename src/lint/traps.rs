//! The traps, in the order in which a request meets them.

mod check;
mod cluster;
mod connection;
mod routes;
mod streams;

use super::Severity::{self, Error, Warning};
use super::{Found, Scene, Trap};

const EXT_AUTHZ_FILTER: &str =
    "https://www.envoyproxy.io/docs/envoy/latest/configuration/http/http_filters/ext_authz_filter";
const ROUTE_MUTATION: &str =
    "https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/http/http_filters#security-considerations";

/// Everything that is looked for. A name with dots in `source` is a field of Envoy's API.
pub const TRAPS: [Trap; 45] = [
    trap(
        "no-ext-authz",
        Error,
        check::no_ext_authz,
        EXT_AUTHZ_FILTER,
        "put envoy.filters.http.ext_authz before the router; envoy/ has complete files",
    ),
    trap(
        "unchecked-listener",
        Error,
        check::unchecked_listener,
        EXT_AUTHZ_FILTER,
        "give this connection manager the ext_authz filter as well, or let it reach other clusters only",
    ),
    trap(
        "fail-open",
        Error,
        check::fail_open,
        "CVE-2024-23324; ExtAuthz.failure_mode_allow",
        "failure_mode_allow: false",
    ),
    trap(
        "ext-authz-switch",
        Error,
        check::ext_authz_switch,
        "ExtAuthz.filter_enabled, ExtAuthz.filter_enabled_metadata",
        "leave it out; exempt routes by a rule of Doorward's with `access: public`",
    ),
    trap(
        "ext-authz-disabled",
        Error,
        check::ext_authz_disabled,
        "HttpFilter.disabled",
        "leave `disabled` out, and turn the filter off on single routes",
    ),
    trap(
        "upgrade-bypass",
        Error,
        check::upgrade_bypass,
        "HttpConnectionManager.UpgradeConfig.filters",
        "leave `filters` out: the upgrade then goes through http_filters",
    ),
    trap(
        "cache-before-check",
        Error,
        check::cache_before_check,
        "Envoy documentation, HTTP filters: filter ordering",
        "put the cache after ext_authz",
    ),
    trap(
        "status-on-error",
        Warning,
        check::status_on_error,
        "ExtAuthz.status_on_error; the default is 403",
        "status_on_error: {code: ServiceUnavailable}",
    ),
    trap(
        "timeout-missing",
        Warning,
        check::timeout_missing,
        "Envoy documentation, External Authorization: the default is 200 ms",
        "timeout: 1s",
    ),
    trap("timeout-unbounded", Warning, check::timeout_unbounded, "GrpcService.timeout", "timeout: 1s"),
    trap(
        "retry-cuts-timeout",
        Warning,
        check::retry_cuts_timeout,
        "GrpcService.retry_policy; measured on Envoy 1.40",
        "leave it out",
    ),
    trap("request-body", Warning, check::request_body, "ExtAuthz.with_request_body", "leave it out"),
    trap(
        "validate-mutations",
        Warning,
        check::validate_mutations,
        "ExtAuthz.validate_mutations; measured on Envoy 1.36 to 1.40",
        "validate_mutations: true",
    ),
    trap(
        "mutation-dropped",
        Error,
        check::mutation_dropped,
        "ExtAuthz.decoder_header_mutation_rules, measured on Envoy 1.36 to 1.40; AuthorizationResponse.allowed_upstream_headers, on 1.40",
        "validate_mutations: true, and leave the rules out; over HTTP, list the header in allowed_upstream_headers",
    ),
    trap(
        "transport-api-version",
        Warning,
        check::transport_api_version,
        "ExtAuthz.transport_api_version",
        "transport_api_version: V3",
    ),
    trap(
        "all-headers-sent",
        Warning,
        check::all_headers_sent,
        "ExtAuthz.allowed_headers",
        "allowed_headers: {patterns: [{exact: authorization}, …]}; envoy/README.md lists what Doorward reads",
    ),
    trap(
        "header-not-sent",
        Error,
        check::header_not_sent,
        "ExtAuthz.allowed_headers, ExtAuthz.disallowed_headers",
        "add it to allowed_headers",
    ),
    trap(
        "cors-after-check",
        Warning,
        check::cors_after_check,
        "Fetch standard, CORS-preflight fetch; Envoy documentation, HTTP filters: filter ordering",
        "put envoy.filters.http.cors before ext_authz",
    ),
    trap(
        "identity-not-stripped",
        Error,
        routes::identity_not_stripped,
        "envoy#46586",
        "strip the identity headers by early_header_mutation_extensions, as envoy/edge-tcp.yaml does, or by request_headers_to_remove on this route",
    ),
    trap(
        "look-alike-not-stripped",
        Error,
        routes::look_alike_not_stripped,
        "envoy#46586; RFC 3875 section 4.1.18 (HTTP_ names)",
        "remove_on_match with a safe_regex such as `x[-_.]user[-_.](id|email)`",
    ),
    trap(
        "no-early-strip",
        Warning,
        routes::no_early_strip,
        "envoy#46586",
        "strip the identity headers by early_header_mutation_extensions, as envoy/edge-tcp.yaml does",
    ),
    trap(
        "identity-removed",
        Error,
        routes::identity_removed,
        "Envoy documentation, HTTP routing: request_headers_to_remove, request_headers_to_add",
        "leave it out; strip client copies by early_header_mutation_extensions",
    ),
    trap(
        "unknown-rule",
        Error,
        routes::unknown_rule,
        "CheckSettings.context_extensions; Doorward, rules by name",
        "context_extensions: {doorward.rule: NAME}, with the name of a rule",
    ),
    trap(
        "rerouted-after-check",
        Error,
        routes::rerouted_after_check,
        ROUTE_MUTATION,
        "put the filter before ext_authz, or forbid it to clear the route cache",
    ),
    trap(
        "rerouted-by-check",
        Error,
        routes::rerouted_by_check,
        ROUTE_MUTATION,
        "clear_route_cache: false, or let Doorward's rules match paths and no route say how it is checked",
    ),
    trap(
        "route-not-chosen-anew",
        Warning,
        routes::route_not_chosen_anew,
        "ExtAuthz.clear_route_cache",
        "clear_route_cache: true, and no route that says how it is checked",
    ),
    trap(
        "stream-outlives-sign-out",
        Warning,
        routes::stream_outlives_sign_out,
        "Envoy documentation, HTTP upgrades; RouteAction.MaxStreamDuration",
        "envoy.filters.http.ext_proc behind ext_authz, as envoy/streams.yaml has it: streams then end with their session; else max_stream_duration: {max_stream_duration: 900s} on the route",
    ),
    trap(
        "stream-unproven",
        Error,
        streams::stream_unproven,
        "ExternalProcessor.metadata_options",
        "ext_proc behind ext_authz, with metadata_options: {forwarding_namespaces: {untyped: [envoy.filters.http.ext_authz]}}",
    ),
    trap(
        "stream-modes",
        Error,
        streams::stream_modes,
        "ProcessingMode; measured on Envoy 1.36 to 1.40",
        "processing_mode: {request_header_mode: SEND, response_header_mode: SKIP, response_trailer_mode: SEND}",
    ),
    trap(
        "stream-fail-open",
        Error,
        streams::stream_fail_open,
        "ExternalProcessor.failure_mode_allow, ExternalProcessor.observability_mode",
        "failure_mode_allow: false, and no observability_mode",
    ),
    trap(
        "stream-closes-late",
        Warning,
        streams::stream_closes_late,
        "HttpConnectionManager.delayed_close_timeout; the default is 1 s",
        "delayed_close_timeout: 0.1s",
    ),
    trap(
        "path-not-normalized",
        Warning,
        connection::path_not_normalized,
        "CVE-2019-9901; HttpConnectionManager.normalize_path",
        "normalize_path: true",
    ),
    trap(
        "slashes-not-merged",
        Warning,
        connection::slashes_not_merged,
        "HttpConnectionManager.merge_slashes",
        "merge_slashes: true",
    ),
    trap(
        "escaped-slashes",
        Warning,
        connection::escaped_slashes,
        "CVE-2021-29492; HttpConnectionManager.path_with_escaped_slashes_action",
        "path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT",
    ),
    trap(
        "client-address",
        Warning,
        connection::client_address,
        "Envoy documentation, HTTP header manipulation: x-forwarded-for",
        "use_remote_address: true, with xff_num_trusted_hops for the proxies before this one",
    ),
    trap(
        "internal-addresses",
        Error,
        connection::internal_addresses,
        "HttpConnectionManager.internal_address_config; measured on Envoy 1.36 and 1.40",
        "leave it out, or list the ranges that are yours",
    ),
    trap(
        "client-certificate-header",
        Error,
        connection::client_certificate_header,
        "HttpConnectionManager.forward_client_cert_details",
        "forward_client_cert_details: SANITIZE, or SANITIZE_SET behind mutual TLS",
    ),
    trap(
        "token-in-access-log",
        Error,
        connection::token_in_access_log,
        "RFC 6750 section 5.3",
        "log the metadata of Doorward instead: %DYNAMIC_METADATA(envoy.filters.http.ext_authz:user_id)%",
    ),
    trap(
        "cluster-unknown",
        Error,
        cluster::cluster_unknown,
        "GrpcService.EnvoyGrpc.cluster_name",
        "name the cluster of Doorward",
    ),
    trap(
        "cluster-http1",
        Error,
        cluster::cluster_http1,
        "HttpProtocolOptions.explicit_http_config",
        "typed_extension_protocol_options with http2_protocol_options; envoy/edge-tcp.yaml shows them",
    ),
    trap(
        "cluster-keepalive",
        Warning,
        cluster::cluster_keepalive,
        "Http2ProtocolOptions.connection_keepalive",
        "connection_keepalive: {interval: 5s, timeout: 1s}",
    ),
    trap(
        "cluster-circuit-breaker",
        Warning,
        cluster::cluster_circuit_breaker,
        "CircuitBreakers.Thresholds; the default is 1,024",
        "circuit_breakers: {thresholds: [{max_requests: 65536, max_pending_requests: 65536}]}",
    ),
    trap(
        "cluster-plaintext",
        Error,
        cluster::cluster_plaintext,
        "RFC 6750 section 5.3",
        "a transport_socket with TLS and a trusted CA, and `listen.tls` in Doorward",
    ),
    trap(
        "cluster-outlier",
        Warning,
        cluster::cluster_outlier,
        "Envoy documentation, Outlier detection",
        "leave it out: a Doorward that is not ready says so itself",
    ),
    trap(
        "cluster-health",
        Warning,
        cluster::cluster_health,
        "Envoy documentation, Health checking; Doorward, upgrade and shutdown",
        "health_checks: [{grpc_health_check: {}, …}], as in envoy/edge-fleet.yaml",
    ),
];

const fn trap(
    name: &'static str,
    severity: Severity,
    check: fn(&Scene<'_>, &mut Found),
    source: &'static str,
    fix: &'static str,
) -> Trap {
    Trap { name, severity, fix, source, check }
}
