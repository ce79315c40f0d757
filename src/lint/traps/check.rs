//! The ext_authz filter itself, and the filters around it in the chain.

use std::collections::BTreeSet;

use super::super::Found;
use super::super::matching::any_matches;
use super::super::model::{Check, Model};
use super::super::node::Node;
use super::super::route::Route;

/// With a longer timeout, requests pile up behind a Doorward that hangs; its own bound for a decision is one
/// second.
const LONGEST_TIMEOUT: f64 = 5.0;

pub(super) fn no_ext_authz(model: &Model<'_>, found: &mut Found) {
    if model.checked().next().is_none() {
        for manager in &model.managers {
            found.at(&manager.node, "no connection manager here has an ext_authz filter: no request is checked");
        }
    }
}

pub(super) fn unchecked_listener(model: &Model<'_>, found: &mut Found) {
    let named = |target: &Node<'_>| target.text("name").or_else(|| target.text("cluster")).map(str::to_owned);
    let checked = model.checked().flat_map(|manager| &manager.routes).flat_map(Route::targets);
    let behind: BTreeSet<_> = checked.filter_map(|target| named(&target)).collect();
    let mut reached = |place: &Node<'_>, target: &Node<'_>| {
        if let Some(cluster) = named(target).filter(|name| behind.contains(name)) {
            found.at(place, format!("`{cluster}` is behind ext_authz elsewhere, and reached from here without it"));
        } else if target.get("cluster_header").is_some() && !behind.is_empty() {
            found.at(
                place,
                "a request header names the cluster here, and may name one that is behind ext_authz elsewhere",
            );
        }
    };
    for manager in model.managers.iter().filter(|manager| !manager.is_checked()) {
        for route in &manager.routes {
            route.targets().for_each(|target| reached(&route.node, &target));
        }
    }
    for proxy in &model.tcp_proxies {
        let weighted = proxy.list("weighted_clusters.clusters");
        std::iter::once(proxy.clone()).chain(weighted).for_each(|target| reached(proxy, &target));
    }
}

pub(super) fn fail_open(model: &Model<'_>, found: &mut Found) {
    for node in model.checks().filter_map(|check| check.filter.config.get("failure_mode_allow")) {
        if node.is_true() {
            found.at(
                &node,
                "a client that can make a check fail passes without one, with identity headers of its own choice",
            );
        }
    }
}

pub(super) fn ext_authz_switch(model: &Model<'_>, found: &mut Found) {
    for check in model.checks() {
        let config = &check.filter.config;
        if let Some(part) = config.get("filter_enabled") {
            let of = part.at("default_value.denominator");
            let all = match of.and_then(|of| of.choice(&["HUNDRED", "TEN_THOUSAND", "MILLION"])) {
                Some("TEN_THOUSAND") => 10_000.0,
                Some("MILLION") => 1_000_000.0,
                _ => 100.0,
            };
            let whole = part.number("default_value.numerator").is_some_and(|share| share >= all)
                && part.text("runtime_key").unwrap_or_default().is_empty();
            if !whole {
                found.at(
                    &part,
                    "only a part of the requests is checked, or a runtime key can reduce the part while Envoy runs",
                );
            }
        }
        if let Some(part) = config.get("filter_enabled_metadata") {
            found.at(&part, "whether a request is checked depends on metadata that another filter sets");
        }
    }
}

pub(super) fn conditional_check(model: &Model<'_>, found: &mut Found) {
    for condition in model.checks().filter_map(|check| check.filter.condition.clone()) {
        let described = described(&condition);
        found.at(
            &condition,
            format!("the check is conditional here, and a request that does not match is not checked: {described}"),
        );
    }
}

/// Describes a matcher: its inputs, and the values they are compared with.
fn described(matcher: &Node<'_>) -> String {
    /// The most parts that are described.
    const MOST: usize = 8;
    let mut words: Vec<String> = Vec::new();
    matcher.any(&mut |node| {
        if let Some(header) = node.text("header_name") {
            words.push(format!("header `{}`", header.escape_debug()));
        } else if node.kind.ends_with("Input") {
            words.push(format!("`{}`", node.kind.escape_debug()));
        }
        for field in ["exact", "prefix", "suffix", "contains", "regex"] {
            words.extend(node.text(field).map(|text| format!("{field} `{}`", text.escape_debug())));
        }
        for (field, map) in [("exact", "exact_match_map.map"), ("prefix", "prefix_match_map.map")] {
            let entries = node.at(map).into_iter().flat_map(|map| map.entries().collect::<Vec<_>>());
            words.extend(entries.map(|(key, _)| format!("{field} `{}`", key.escape_debug())));
        }
        node.is_check() || words.len() > MOST
    });
    if words.len() > MOST {
        words.truncate(MOST);
        words.push("…".to_owned());
    }
    if words.is_empty() { "the matcher decides".to_owned() } else { words.join(", ") }
}

pub(super) fn http_service_path(model: &Model<'_>, found: &mut Found) {
    for service in http_services(model) {
        let written = |name: &str| service.get(name).filter(|path| path.value.as_str() != Some(""));
        let (replaced, prefixed) = (written("path_override"), written("path_prefix"));
        if let (Some(path), Some(_)) = (&replaced, &prefixed) {
            found.at(path, "Envoy refuses a configuration with both `path_override` and `path_prefix`");
        } else if let Some(path) = replaced {
            let added: Vec<_> = service.list("authorization_request.headers_to_add").collect();
            let names = |name: &str, command: &str| {
                added.iter().any(|header| {
                    // Only the complete value counts: a client chooses `%REQ(X?:PATH)%`, and `%REQ(:PATH):9%` is a
                    // part.
                    let value = header.text("value").unwrap_or_default().to_ascii_lowercase();
                    let is_whole = ["req", "request_header"].iter().any(|of| value == format!("%{of}({command})%"));
                    header.text("key").is_some_and(|key| key.eq_ignore_ascii_case(name)) && is_whole
                })
            };
            let both =
                |way: &str| names(&format!("x-{way}-uri"), ":path") && names(&format!("x-{way}-method"), ":method");
            if path.value.as_str() != Some(PREFIX) {
                found.at(
                    &path,
                    "this is not Doorward's `/auth`: its answer is not a decision, and every 200 allows the request",
                );
            } else if !both("original") && !both("forwarded") {
                found.at(&path, "no header sends Doorward the complete path and method of the original request");
            }
        } else if let Some(path) = prefixed {
            if path.value.as_str() != Some(PREFIX) {
                found.at(&path, "only `/auth`, without a slash at its end, leads to decisions: `/auth/` changes the path of every request, and other endpoints allow every request");
            }
        } else {
            found.at(&service, "without a prefix a request for `/livez` or `/metrics` is allowed, because Doorward itself answers 200 there");
        }
    }
}

/// The path of Doorward's decisions over HTTP.
const PREFIX: &str = "/auth";

fn http_services<'a>(model: &Model<'a>) -> impl Iterator<Item = Node<'a>> {
    let configs = |check: Check<'_, 'a>| {
        let configs = std::iter::once(check.filter.config.clone()).chain(check.settings());
        configs.filter_map(|config| config.get("http_service")).collect::<Vec<_>>()
    };
    model.checks().flat_map(configs)
}

pub(super) fn grpc_web_after_check(model: &Model<'_>, found: &mut Found) {
    for check in model.checks() {
        for filter in check.manager.filters[check.at..].iter().filter(|filter| filter.config.kind == "GrpcWeb") {
            found.at(&filter.node, "refusals are not translated: a gRPC-Web client cannot read the status of the call");
        }
    }
}

pub(super) fn ext_authz_disabled(model: &Model<'_>, found: &mut Found) {
    for node in model.checks().filter_map(|check| check.filter.node.get("disabled")) {
        if node.is_true() {
            found
                .at(&node, "the filter is off unless a route turns it on: a route without that setting is not checked");
        }
    }
}

pub(super) fn upgrade_bypass(model: &Model<'_>, found: &mut Found) {
    for manager in model.checked() {
        for filters in manager.node.list("upgrade_configs").filter_map(|upgrade| upgrade.get("filters")) {
            let kinds = || filters.items().filter_map(|filter| filter.get("typed_config"));
            if !kinds().any(|config| config.is_check()) {
                found.at(
                    &filters,
                    "an upgrade with filters of its own skips http_filters, and its own filters have no check: it is not checked",
                );
            }
        }
    }
}

pub(super) fn cache_before_check(model: &Model<'_>, found: &mut Found) {
    for check in model.checks() {
        for filter in &check.manager.filters[..check.at] {
            if matches!(filter.config.kind, "CacheConfig" | "CacheV2Config" | "FileSystemHttpCacheConfig") {
                found.at(
                    &filter.node,
                    "a response from the cache bypasses the check: without `authorization`, as with a token in a cookie, any client gets it",
                );
            }
        }
    }
}

pub(super) fn status_on_error(model: &Model<'_>, found: &mut Found) {
    let checks = model.configured().map(|check| (check.filter, "403, as a refusal is"));
    let enders = model.checked().flat_map(|manager| model.enders(manager));
    let enders = enders.map(|(_, ender)| (ender.filter, "500 where a stream opens, as a fault of the service is"));
    for (filter, status) in checks.chain(enders) {
        let config = &filter.config;
        let Some(code) = config.at("status_on_error.code") else {
            found.at(config, format!("without status_on_error an outage of Doorward is answered {status}"));
            continue;
        };
        let named = |name: &&str| code.value.as_str().is_some_and(|text| text.eq_ignore_ascii_case(name));
        let outage = match config.number("status_on_error.code") {
            Some(code) => code >= 500.0,
            None => ["InternalServerError", "BadGateway", "ServiceUnavailable", "GatewayTimeout"].iter().any(named),
        };
        if !outage {
            found.at(&code, "an outage of Doorward is answered as the client's error: the client drops valid tokens, or does not retry");
        }
    }
}

pub(super) fn timeout_missing(model: &Model<'_>, found: &mut Found) {
    for service in services(model) {
        if service.get("timeout").is_none() {
            found.at(&service, "the default is 200 ms: the first token after a key rotation, which waits for one fetch of the keys, is answered with an error");
        }
    }
}

pub(super) fn timeout_unbounded(model: &Model<'_>, found: &mut Found) {
    for service in services(model) {
        let Some((node, seconds)) = service.get("timeout").zip(service.seconds("timeout")) else { continue };
        if seconds == 0.0 {
            found.at(&node, "zero means no limit: a Doorward that hangs blocks every request for ever");
        } else if seconds > LONGEST_TIMEOUT {
            found.at(
                &node,
                format!("a Doorward that hangs blocks every request for {seconds} s; its own limit is one second"),
            );
        }
    }
}

pub(super) fn retry_cuts_timeout(model: &Model<'_>, found: &mut Found) {
    for node in services(model).filter_map(|service| service.get("retry_policy")) {
        found.at(&node, "the back-off's max_interval becomes the timeout of each try, and an outage of Doorward only delays requests longer");
    }
}

pub(super) fn request_body(model: &Model<'_>, found: &mut Found) {
    for check in model.checks() {
        let bodies = std::iter::once(check.filter.config.clone()).chain(check.settings());
        for node in bodies.filter_map(|config| config.get("with_request_body")) {
            found.at(&node, "Doorward reads no bodies, and every request waits until its body has arrived");
        }
    }
}

pub(super) fn validate_mutations(model: &Model<'_>, found: &mut Found) {
    for config in unvalidated(model).filter(|config| config.get("decoder_header_mutation_rules").is_none()) {
        found.at(&config, "a header value that cannot be sent is detected late, or not at all");
    }
}

pub(super) fn mutation_dropped(model: &Model<'_>, found: &mut Found) {
    for node in unvalidated(model).filter_map(|config| config.get("decoder_header_mutation_rules")) {
        found.at(&node, "with these rules and without validate_mutations a header that may not be set is dropped silently, and the client's own copy goes upstream");
    }
    for check in model.checks() {
        let Some(service) = check.filter.config.get("http_service") else { continue };
        let listed = service.at("authorization_response.allowed_upstream_headers");
        let kept = |name: &&str| !listed.as_ref().is_some_and(|list| any_matches(list, name));
        let place = listed.as_ref().unwrap_or(&service);
        let identity = model.expected.identity.iter().map(String::as_str);
        for name in identity.filter(|name| !check.manager.strips(name, check.at)).filter(kept) {
            found.at(
                place,
                format!("Doorward's `{name}` is not listed: it is dropped, and the client's own copy goes upstream"),
            );
        }
        if model.expected.sets_cookie && kept(&"cookie") {
            found.at(place, "Doorward sets `cookie` without the token, and it is not listed: the client's own copy goes upstream, with the token");
        }
    }
}

pub(super) fn transport_api_version(model: &Model<'_>, found: &mut Found) {
    for check in model.configured() {
        let config = &check.filter.config;
        match config.get("transport_api_version") {
            Some(version) if version.choice(&["AUTO", "V2", "V3"]) == Some("V3") => {}
            Some(version) => found.at(&version, "V3 is the only version that Envoy and Doorward support"),
            None => found.at(config, "without it an Envoy before 1.36 may refuse the file or use v2"),
        }
    }
}

pub(super) fn all_headers_sent(model: &Model<'_>, found: &mut Found) {
    for check in model.checks() {
        let config = &check.filter.config;
        if config.get("grpc_service").is_some() && config.get("allowed_headers").is_none() {
            found.at(
                config,
                "every request header is copied into every check, which is most of the cost of ext_authz in Envoy",
            );
        }
    }
}

pub(super) fn header_not_sent(model: &Model<'_>, found: &mut Found) {
    for check in model.checks() {
        let config = &check.filter.config;
        let allowed = config.get("allowed_headers");
        let withheld = config.get("disallowed_headers");
        let is_allowed = |name: &str| {
            let over_http = || config.get("http_service").is_some() && name == "authorization";
            allowed.as_ref().is_none_or(|list| any_matches(list, name) || over_http())
        };
        let is_withheld = |name: &str| withheld.as_ref().is_some_and(|list| any_matches(list, name));
        for group in &model.expected.reads {
            if !group.iter().any(|name| is_allowed(name) && !is_withheld(name)) {
                let taken_out = withheld.as_ref().filter(|_| group.iter().any(|name| is_allowed(name)));
                let place = taken_out.or(allowed.as_ref()).unwrap_or(config);
                let names = group.join("` or `");
                found.at(place, format!("Doorward reads `{names}`, and it is not sent: it counts as absent"));
            }
        }
    }
}

pub(super) fn cors_after_check(model: &Model<'_>, found: &mut Found) {
    for check in model.checks() {
        for filter in &check.manager.filters[check.at..] {
            if filter.config.kind == "Cors" {
                found.at(&filter.node, "a preflight carries no token and is refused; no refusal has the headers without which a page cannot read it");
            }
        }
    }
}

fn services<'a>(model: &Model<'a>) -> impl Iterator<Item = Node<'a>> {
    model.checks().flat_map(|check| check.services()).map(|service| service.node)
}

fn unvalidated<'a>(model: &Model<'a>) -> impl Iterator<Item = Node<'a>> {
    let config = |check: Check<'_, 'a>| check.filter.config.clone();
    model.configured().map(config).filter(|config| !config.is("validate_mutations"))
}
