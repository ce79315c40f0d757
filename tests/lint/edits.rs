//! The clean file with one change: traps in every spelling that Envoy accepts, and harmless changes.

use std::process::Command;

use super::{ROOT, lint, rules};
use crate::support::TempDir;
use crate::support::envoy;

/// `clean.yaml`, edited; each replaced text occurs in it once.
#[track_caller]
fn edited(edits: &[(&str, &str)]) -> String {
    let clean = std::fs::read_to_string(format!("{ROOT}/tests/lint/clean.yaml")).unwrap();
    edits.iter().fold(clean, |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{from}");
        text.replace(from, to)
    })
}

/// `expected` is the rule that is found, or empty; Envoy takes the file in any case.
#[track_caller]
fn check(expected: &str, edits: &[(&str, &str)]) {
    check_with(expected, edits, true);
}

/// As [`check`]; `starts`: whether Envoy takes the file.
#[track_caller]
fn check_with(expected: &str, edits: &[(&str, &str)], starts: bool) {
    let text = edited(edits);
    let (_, findings) = lint(&["-"], &text);
    let expected: Vec<_> = expected.split(' ').filter(|rule| !rule.is_empty()).collect();
    assert_eq!(rules(&findings), expected, "{edits:?}: {findings:#?}");
    let dir = TempDir::new();
    let path = dir.path().join("envoy.yaml");
    std::fs::write(&path, &text).unwrap();
    // The newest only: the oldest lacks `%REQUEST_HEADER%`.
    if let Some(binary) = envoy::binary() {
        let mut command = Command::new(&binary);
        let output = command.args(["--mode", "validate", "--log-level", "error", "-c"]).arg(&path).output().unwrap();
        assert_eq!(output.status.success(), starts, "{binary} {edits:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// A field of the ext_authz filter.
const VALIDATE: &str = "validate_mutations: true";
/// A field of the connection manager.
const REMOTE: &str = "use_remote_address: true";

#[test]
fn every_spelling_of_true_and_false() {
    let indent = "\n                      ";
    for yes in ["yes", "Yes", "on", "y", "Y", "t", "\"true\"", "'yes'", "\"1\""] {
        check("fail-open", &[(VALIDATE, &format!("{VALIDATE}{indent}failure_mode_allow: {yes}"))]);
        check("", &[("normalize_path: true", &format!("normalize_path: {yes}"))]);
    }
    for no in ["no", "off", "N", "\"false\""] {
        check("", &[(VALIDATE, &format!("{VALIDATE}{indent}failure_mode_allow: {no}"))]);
        check("path-not-normalized", &[("normalize_path: true", &format!("normalize_path: {no}"))]);
    }
    let route = "route: {cluster: upstream}";
    let kind = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute";
    let off = format!(
        "{route}\n                          typed_per_filter_config: {{envoy.filters.http.ext_authz: {{\"@type\": {kind}, disabled: yes}}}}"
    );
    check(
        "identity-not-stripped",
        &[
            (route, &off),
            (
                "remove_on_match: {key_matcher: {safe_regex: {regex: \"x[-_.]user[-_.](id|email)\"}}}",
                "remove: x-user-id",
            ),
        ],
    );
}

#[test]
fn enums_by_number_and_numbers_in_quotes() {
    let after =
        |field: &'static str, more: &str, indent: usize| [(field, format!("{field}\n{}{more}", " ".repeat(indent)))];
    for (expected, more) in [
        ("client-certificate-header", "forward_client_cert_details: 4"),
        ("client-certificate-header", "forward_client_cert_details: always_forward_only"),
        ("", "forward_client_cert_details: 3"),
    ] {
        let [(from, to)] = after(REMOTE, more, 16);
        check(expected, &[(from, &to)]);
    }
    for (expected, share) in [
        ("ext-authz-switch", "{numerator: 100, denominator: 2}"),
        ("ext-authz-switch", "{numerator: 100, denominator: MILLION}"),
        ("ext-authz-switch", "{numerator: \"99\"}"),
        ("ext-authz-switch", "{denominator: HUNDRED}"),
        ("", "{numerator: \"100\"}"),
        ("", "{numerator: 1000000, denominator: MILLION}"),
        ("", "{numerator: 10000, denominator: 1}"),
    ] {
        let [(from, to)] = after(VALIDATE, &format!("filter_enabled: {{default_value: {share}}}"), 22);
        check(expected, &[(from, &to)]);
    }
    check("", &[("transport_api_version: V3", "transport_api_version: 2")]);
    check("", &[("UNESCAPE_AND_REDIRECT", "3")]);
    check("escaped-slashes", &[("UNESCAPE_AND_REDIRECT", "1")]);
    check("", &[("code: ServiceUnavailable", "code: \"503\"")]);
    check("status-on-error", &[("code: ServiceUnavailable", "code: \"403\"")]);
    check(
        "timeout-unbounded",
        &[("                        timeout: 1s", "                        timeout: {seconds: \"600\"}")],
    );
}

/// A field and what follows it, indented.
fn and(field: &str, indent: usize, more: &str) -> String {
    format!("{field}\n{}{more}", " ".repeat(indent))
}

#[test]
fn a_typed_struct_is_the_filter_that_it_wraps() {
    let kind = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
    for wrapper in ["xds.type.v3.TypedStruct", "udpa.type.v1.TypedStruct"] {
        for (expected, more) in [("", ""), ("fail-open", ", failure_mode_allow: true")] {
            let filter = format!(
                "\"@type\": type.googleapis.com/{wrapper}
                      type_url: {}
                      value: {{transport_api_version: V3, grpc_service: {{envoy_grpc: {{cluster_name: doorward}}, timeout: 1s}}, status_on_error: {{code: 503}}, validate_mutations: true, allowed_headers: {{patterns: [{{exact: authorization}}]}}{more}}}",
                kind.split_once(' ').unwrap().1
            );
            let clean = edited(&[]);
            let start = clean.find(kind).unwrap();
            let end = clean.find("                  - name: envoy.filters.http.router").unwrap();
            check(expected, &[(clean[start..end].trim_end(), &filter)]);
        }
    }
}

#[test]
fn a_way_around_the_check() {
    let listener = |filter: &str| {
        format!(
            "  listeners:\n    - name: other\n      address: {{socket_address: {{address: 127.0.0.1, port_value: 10001}}}}\n      filter_chains: [{{filters: [{{name: a, typed_config: {filter}}}]}}]\n"
        )
    };
    let manager = |route: &str| {
        listener(&format!(
            "{{\"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: a, http_filters: [{{name: router, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}], route_config: {{virtual_hosts: [{{name: a, domains: [\"*\"], {route}}}]}}}}"
        ))
    };
    let tcp = |cluster: &str| {
        listener(&format!(
            "{{\"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: a, {cluster}}}"
        ))
    };
    let routes = |action: &str| manager(&format!("routes: [{{match: {{prefix: /}}, route: {{{action}}}}}]"));
    let matched = |cluster: &str| {
        manager(&format!(
            "matcher: {{matcher_tree: {{input: {{name: a, typed_config: {{\"@type\": type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: \":path\"}}}}, prefix_match_map: {{map: {{/: {{action: {{name: a, typed_config: {{\"@type\": type.googleapis.com/envoy.config.route.v3.Route, match: {{prefix: /}}, route: {{cluster: {cluster}}}}}}}}}}}}}}}}}"
        ))
    };
    for (expected, other) in [
        ("unchecked-listener", tcp("cluster: upstream")),
        ("unchecked-listener", tcp("weighted_clusters: {clusters: [{name: upstream, weight: 1}]}")),
        ("unchecked-listener", routes("cluster: doorward, request_mirror_policies: [{cluster: upstream}]")),
        ("unchecked-listener", routes("cluster_header: x-cluster")),
        ("unchecked-listener", matched("upstream")),
        ("", tcp("cluster: doorward")),
        ("", routes("cluster: doorward")),
        ("", matched("doorward")),
    ] {
        check(expected, &[("  listeners:\n", &other)]);
    }
}

#[test]
fn streams_and_internal_addresses() {
    let route = "route: {cluster: upstream";
    let upgrade = |more: &str| {
        and(
            REMOTE,
            16,
            &format!(
                "upgrade_configs: [{{upgrade_type: websocket}}]\n                common_http_protocol_options: {{{more}}}"
            ),
        )
    };
    let own = |longest: &str| format!("{route}, max_stream_duration: {{max_stream_duration: {longest}}}");
    for (expected, general, route_own) in [
        ("stream-outlives-sign-out", "max_stream_duration: 0s", route.to_owned()),
        ("stream-outlives-sign-out", "max_stream_duration: 60s", own("0s")),
        ("", "max_stream_duration: 60s", route.to_owned()),
        ("", "max_stream_duration: 0s", own("60s")),
    ] {
        check(expected, &[(REMOTE, &upgrade(general)), (route, &route_own)]);
    }
    for (expected, range) in [
        ("internal-addresses", "{address_prefix: 0.0.0.0, prefix_len: 0}"),
        ("internal-addresses", "{address_prefix: 128.0.0.0, prefix_len: \"1\"}"),
        ("internal-addresses", "{address_prefix: \"::\"}"),
        ("", "{address_prefix: 10.0.0.0, prefix_len: 8}, {address_prefix: \"fc00::\", prefix_len: 7}"),
    ] {
        check(expected, &[(REMOTE, &and(REMOTE, 16, &format!("internal_address_config: {{cidr_ranges: [{range}]}}")))]);
    }
}

#[test]
fn tokens_in_access_logs() {
    let stdout = |format: &str| {
        format!(
            "[{{name: a, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog, log_format: {{text_format_source: {{inline_string: \"{format}\"}}}}}}}}]"
        )
    };
    let grpc = |header: &str| {
        format!(
            "[{{name: a, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig, common_config: {{log_name: a, transport_api_version: V3, grpc_service: {{envoy_grpc: {{cluster_name: upstream}}}}}}, additional_request_headers_to_log: [{header}]}}}}]"
        )
    };
    for (expected, log) in [
        ("token-in-access-log", stdout("%REQ(X-A?AUTHORIZATION)%")),
        ("token-in-access-log", stdout("a %REQUEST_HEADER(authorization):20% b")),
        ("token-in-access-log", stdout("%RESP(x-a?Set-Cookie)%")),
        ("token-in-access-log", grpc("Cookie")),
        ("", stdout("authorization %REQ(x-authorization?x-cookie)% %DURATION%")),
        ("", grpc("x-request-id")),
    ] {
        check(expected, &[(REMOTE, &and(REMOTE, 16, &format!("access_log: {log}")))]);
    }
    let router = "v3.Router}";
    check(
        "token-in-access-log",
        &[(router, &format!("v3.Router, upstream_log: {}}}", stdout("%REQ(AUTHORIZATION)%")))],
    );
}

#[test]
fn an_unprotected_connection_to_doorward() {
    let clean = edited(&[]);
    let near = &clean[clean.rfind("address: 127.0.0.1, port_value: 9191").unwrap()..][..18];
    assert_eq!(near, "address: 127.0.0.1");
    let at = |host: &str| format!("address: \"{host}\", port_value: 9191");
    let cluster = |socket: &str| {
        and(
            "    - name: doorward",
            6,
            &format!(
                "transport_socket: {{name: a, typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.{socket}}}}}"
            ),
        )
    };
    let far = ("address: 127.0.0.1, port_value: 9191", &*at("10.0.0.5"));
    for (expected, socket) in [
        ("cluster-plaintext", "raw_buffer.v3.RawBuffer"),
        ("cluster-plaintext", "tls.v3.UpstreamTlsContext, sni: doorward.example"),
        (
            "",
            "tls.v3.UpstreamTlsContext, common_tls_context: {validation_context: {trusted_ca: {filename: /etc/ssl/certs/ca-certificates.crt}}}",
        ),
    ] {
        check(expected, &[far, ("    - name: doorward", &cluster(socket))]);
    }
    check("cluster-plaintext", &[far]);
    check("", &[(far.0, &at("::ffff:127.0.0.1"))]);
    let asked = "envoy_grpc: {cluster_name: doorward}";
    for (expected, target) in [
        ("cluster-plaintext", "\"10.0.0.5:9191\""),
        ("cluster-plaintext", "\"dns:///doorward.example:9191\""),
        ("", "\"127.0.0.1:9191\""),
        ("", "\"unix:/run/doorward/check.sock\""),
        ("", "\"10.0.0.5:9191\", channel_credentials: {ssl_credentials: {}}"),
    ] {
        check(expected, &[(asked, &format!("google_grpc: {{target_uri: {target}, stat_prefix: a}}"))]);
    }
}

#[test]
fn identity_replaced_after_the_check() {
    let value = |key: &str, action: &str| {
        format!("{{header: {{key: {key}, value: \"%REQ(x-client)%\"}}, append_action: {action}}}")
    };
    let filter = |mutation: &str| {
        format!(
            "                  - name: late\n                    typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation, mutations: {{request_mutations: [{mutation}]}}}}\n                  - name: envoy.filters.http.router\n"
        )
    };
    let over = "OVERWRITE_IF_EXISTS_OR_ADD";
    for (expected, key, action) in [
        ("identity-removed", "X-User-Id", over),
        ("identity-removed", "x-user-email", "APPEND_IF_EXISTS_OR_ADD"),
        ("", "x-user-id", "ADD_IF_ABSENT"),
        ("", "x-tenant", over),
    ] {
        let host = and("domains: [\"*\"]", 22, &format!("request_headers_to_add: [{}]", value(key, action)));
        check(expected, &[("domains: [\"*\"]", &host)]);
        let late = filter(&format!("{{append: {}}}", value(key, action)));
        check(expected, &[("                  - name: envoy.filters.http.router\n", &late)]);
    }
    check(
        "identity-removed",
        &[("                  - name: envoy.filters.http.router\n", &filter("{remove: x-user-id}"))],
    );
}

/// Over HTTP Envoy drops headers of Doorward's answer that are not listed.
#[test]
fn over_http_what_is_not_listed_is_dropped() {
    let dir = TempDir::new();
    let config = dir.path().join("doorward.yaml");
    let http = |listed: &str| {
        let service = format!(
            "http_service:\n                        server_uri: {{uri: \"http://doorward\", cluster: doorward, timeout: 1s}}\n                        path_prefix: /auth\n                        authorization_response: {{allowed_upstream_headers: {{patterns: [{listed}]}}}}"
        );
        edited(&[
            (
                "grpc_service:\n                        envoy_grpc: {cluster_name: doorward}\n                        timeout: 1s",
                &service,
            ),
            ("{exact: authorization}", "{exact: authorization}, {exact: cookie}"),
        ])
    };
    let both = "{exact: x-user-id}, {exact: x-user-email}";
    for (forward, listed, expected) in [
        (false, both.to_owned(), &["mutation-dropped"][..]),
        (false, format!("{both}, {{exact: cookie}}"), &[]),
        (true, both.to_owned(), &[]),
    ] {
        let token = format!("token: {{from: [{{cookie: token}}], forward: {forward}}}\n");
        let rest = super::CONFIG.replace("token: {forward: false}\n", "");
        std::fs::write(&config, format!("{rest}{token}")).unwrap();
        let (_, findings) = lint(&["-", "--config", config.to_str().unwrap()], &http(&listed));
        assert_eq!(rules(&findings), expected, "{forward} {listed}: {findings:#?}");
    }
    // A client's own header passes only where no filter strips it.
    let (_, findings) = lint(&["-"], &http("{exact: x-user-id}"));
    assert_eq!(rules(&findings), [""; 0], "{findings:#?}");
    let open = http("{exact: x-user-id}").replace("x[-_.]user[-_.](id|email)", "x[-_.]user[-_.]id");
    let (_, findings) = lint(&["-"], &open);
    assert_eq!(rules(&findings), ["mutation-dropped", "no-early-strip"], "{findings:#?}");
}

/// The ext_authz filter's settings, which begin with its type.
const EXT_AUTHZ: &str = "\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";

#[test]
fn ext_authz_that_comes_by_discovery_is_not_missing() {
    let clean = edited(&[]);
    let (head, rest) = clean.split_once("                    typed_config:\n                      \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz").unwrap();
    let (_, tail) = rest.split_once("                  - name: envoy.filters.http.router").unwrap();
    let discovery = |url: &str, more: &str| {
        format!(
            "{head}                    config_discovery:
                      config_source: {{path_config_source: {{path: /dev/null}}}}
                      type_urls: [{url}]{more}
                  - name: envoy.filters.http.router{tail}"
        )
    };
    let url = "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz";
    let (_, findings) = lint(&["-"], &discovery(url, ""));
    assert_eq!(rules(&findings), [""; 0], "{findings:#?}");
    let other = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors";
    assert_eq!(rules(&lint(&["-"], &discovery(other, "")).1), ["no-ext-authz"]);
    // The default that applies until it arrives is checked.
    let default = "\n                      default_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz, transport_api_version: V3, failure_mode_allow: true, validate_mutations: true, status_on_error: {code: 503}, allowed_headers: {patterns: [{exact: authorization}]}, grpc_service: {envoy_grpc: {cluster_name: doorward}, timeout: 1s}}";
    assert_eq!(rules(&lint(&["-"], &discovery(url, default)).1), ["fail-open"]);
}

#[test]
fn a_condition_is_described() {
    let file = std::fs::read_to_string(format!("{ROOT}/tests/lint/conditional-check.yaml")).unwrap();
    let (_, findings) = lint(&["-"], &file);
    let said = findings[0]["message"].as_str().unwrap();
    assert!(["conditional", "header `x-internal`", "exact `yes`"].iter().all(|part| said.contains(part)), "{said}");
    // A composite filter runs ext_authz only for requests that its matcher selects.
    let composite = file
        .replace(
            "typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter}",
            &format!(
                "typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.composite.v3.ExecuteFilterAction, typed_config: {{name: a, typed_config: {{{EXT_AUTHZ}, transport_api_version: V3, failure_mode_allow: true, validate_mutations: true, status_on_error: {{code: 503}}, allowed_headers: {{patterns: [{{exact: authorization}}]}}, grpc_service: {{envoy_grpc: {{cluster_name: doorward}}, timeout: 1s}}}}}}}}"
            ),
        )
        .split_once("                        typed_config:\n                          \"@type\"")
        .map(|(head, rest)| {
            let (_, tail) = rest.split_once("                  - name: envoy.filters.http.router").unwrap();
            format!("{head}                        typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.composite.v3.Composite}}\n                  - name: envoy.filters.http.router{tail}")
        })
        .unwrap();
    let (_, findings) = lint(&["-"], &composite);
    assert_eq!(rules(&findings), ["conditional-check", "fail-open"], "{composite}\n{findings:#?}");
}

#[test]
fn over_http_only_the_way_to_decisions_will_do() {
    let grpc = "grpc_service:\n                        envoy_grpc: {cluster_name: doorward}\n                        timeout: 1s";
    let http = |more: &str| {
        format!(
            "http_service: {{server_uri: {{uri: \"http://127.0.0.1:9192\", cluster: doorward, timeout: 1s}}{more}}}"
        )
    };
    let add = |headers: &[(&str, &str)]| {
        let headers: Vec<_> =
            headers.iter().map(|(key, value)| format!("{{key: {key}, value: \"{value}\"}}")).collect();
        format!(", authorization_request: {{headers_to_add: [{}]}}", headers.join(", "))
    };
    let both = [("x-original-uri", "%REQ(:PATH)%"), ("x-original-method", "%REQ(:METHOD)%")];
    let forwarded = [("x-forwarded-uri", "%REQ(:PATH)%"), ("X-Forwarded-Method", "%REQ(:METHOD)%")];
    for (expected, more) in [
        ("", ", path_prefix: /auth".to_owned()),
        ("http-service-path", ", path_prefix: /".to_owned()),
        ("http-service-path", ", path_prefix: /auth/".to_owned()),
        ("http-service-path", ", path_prefix: /authz".to_owned()),
        ("http-service-path", ", path_override: /auth".to_owned()),
        ("http-service-path", format!(", path_override: /auth{}", add(&both[..1]))),
        ("http-service-path", format!(", path_override: /auth{}", add(&[both[0], ("x-original-method", "GET")]))),
        // The client would choose the path or the method, or only a part would be asked about.
        (
            "http-service-path",
            format!(", path_override: /auth{}", add(&[("x-original-uri", "%REQ(X-PATH?:PATH)%"), both[1]])),
        ),
        (
            "http-service-path",
            format!(", path_override: /auth{}", add(&[("x-original-uri", "%REQ(:PATH):10%"), both[1]])),
        ),
        (
            "http-service-path",
            format!(", path_override: /auth{}", add(&[both[0], ("x-original-method", "%REQ(X-METHOD?:METHOD)%")])),
        ),
        ("http-service-path", format!(", path_override: /livez{}", add(&both))),
        ("", format!(", path_prefix: \"\", path_override: /auth{}", add(&both))),
        ("", ", path_prefix: /auth, path_override: \"\"".to_owned()),
        ("", format!(", path_override: /auth{}", add(&both))),
        ("", format!(", path_override: /auth{}", add(&forwarded))),
    ] {
        check(expected, &[(grpc, &http(&more))]);
    }
    // Envoy takes only one of them.
    let prefixed = format!(", path_prefix: /auth, path_override: /auth{}", add(&both));
    check_with("http-service-path", &[(grpc, &http(&prefixed))], false);
}

#[test]
fn per_route_entries_count_wherever_the_filter_stands() {
    let route = "route: {cluster: upstream}";
    let entry = |key: &str| {
        format!(
            "{route}\n                          typed_per_filter_config: {{{key}: {{{EXT_AUTHZ}PerRoute, check_settings: {{}}}}}}"
        )
    };
    check("per-route-ignored", &[(route, &entry("ext_authz"))]);
    check("", &[(route, &entry("envoy.filters.http.ext_authz"))]);
    check("", &[("name: envoy.filters.http.ext_authz\n", "name: doorward\n"), (route, &entry("doorward"))]);
    let weighted = format!(
        "route: {{weighted_clusters: {{clusters: [{{name: upstream, weight: 1, typed_per_filter_config: {{x: {{{EXT_AUTHZ}PerRoute, check_settings: {{}}}}}}}}]}}}}"
    );
    check("per-route-ignored", &[(route, &weighted)]);
    let whole = format!(
        "route_config:\n                  typed_per_filter_config: {{x: {{{EXT_AUTHZ}PerRoute, check_settings: {{}}}}}}"
    );
    check("per-route-ignored", &[("route_config:", &whole)]);
}
