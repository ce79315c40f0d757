//! Identity headers on the way to the upstream, and settings of routes that change a check.

use std::collections::BTreeSet;

use super::super::Found;
use super::super::matching::removes;
use super::super::model::{Check, Filter, Model};
use super::super::node::Node;
use super::super::route::Route;
use crate::authz::answer::look_alikes;

/// The key by which a route names one of Doorward's rules.
pub(super) const RULE: &str = "doorward.rule";

/// The identity headers of a client that can reach an upstream on a route without a check.
enum Passes {
    Nothing,
    /// A spelling with `_` or `.`, which upstreams treat as the same header.
    LookAlike(String),
    Itself(String),
}

fn passes(model: &Model<'_>, check: &Check<'_, '_>, route: &Route<'_>) -> Passes {
    let stripped =
        |name: &str| check.manager.strips(name, check.manager.filters.len()) || route.removes(name).is_some();
    let names = &model.expected.identity;
    if let Some(name) = names.iter().find(|name| !stripped(name)) {
        return Passes::Itself(name.clone());
    }
    let look_alike = names.iter().flat_map(|name| look_alikes(name)).find(|name| !stripped(name));
    look_alike.map_or(Passes::Nothing, Passes::LookAlike)
}

pub(super) fn identity_not_stripped(model: &Model<'_>, found: &mut Found) {
    for (check, route, node) in model.without_check() {
        if let Passes::Itself(name) = passes(model, &check, route) {
            found.at(&node, format!("requests are not checked here, so a client's own `{name}` reaches the upstream"));
        }
    }
}

pub(super) fn look_alike_not_stripped(model: &Model<'_>, found: &mut Found) {
    for (check, route, node) in model.without_check() {
        if let Passes::LookAlike(name) = passes(model, &check, route) {
            found.at(&node, format!("requests are not checked here, and a client's `{name}` passes, which many upstreams read as the identity header"));
        }
    }
}

pub(super) fn no_early_strip(model: &Model<'_>, found: &mut Found) {
    let open = |check: &Check<'_, '_>| {
        model.without_check().any(|(other, route, _)| {
            other.filter.node.path == check.filter.node.path && !matches!(passes(model, &other, route), Passes::Nothing)
        })
    };
    for check in model.checks() {
        let kept = |name: &&String| !check.manager.strips(name, check.at);
        if let Some(name) = model.expected.identity.iter().find(kept)
            && !open(&check)
        {
            found.at(&check.manager.node, format!("a client's `{name}` is not removed before the check: if a check is ever skipped or fails open, the upstream trusts it"));
        }
    }
}

pub(super) fn identity_removed(model: &Model<'_>, found: &mut Found) {
    for check in model.checks() {
        for route in check.manager.routes.iter().filter(|route| check.filter.disabled_on(route).is_none()) {
            let later = later_mutations(&check, route);
            let appended = later.iter().filter_map(|mutation| mutation.get("append"));
            let on_route = route.levels.iter().flat_map(|level| level.list("request_headers_to_add"));
            let added: Vec<_> = appended.chain(on_route).collect();
            for name in &model.expected.identity {
                let removing = later.iter().find(|mutation| removes([(*mutation).clone()].into_iter(), name)).cloned();
                for node in route.removes(name).into_iter().chain(removing) {
                    found.at(&node, "this acts after the check: it removes the header that Doorward has set");
                }
                for node in added.iter().filter(|option| writes(option, name)) {
                    found.at(
                        node,
                        format!(
                            "this acts after the check: it replaces the `{name}` that Doorward has set, or adds to it"
                        ),
                    );
                }
            }
        }
    }
}

/// The request mutations of `header_mutation` filters behind the check, from their own configuration or from the route.
fn later_mutations<'a>(check: &Check<'_, 'a>, route: &Route<'a>) -> Vec<Node<'a>> {
    let filters = check.manager.filters[check.at + 1..].iter();
    let filters = filters.filter(|filter| filter.config.kind == "HeaderMutation" && !filter.node.is("disabled"));
    let configs = filters.flat_map(|filter| {
        let on_route: Vec<_> = route.per_filter(filter.name).collect();
        on_route.into_iter().chain([filter.config.clone()])
    });
    configs.flat_map(|config| config.list("mutations.request_mutations")).collect()
}

/// Whether a `HeaderValueOption` changes a header that may exist already.
fn writes(option: &Node<'_>, name: &str) -> bool {
    let absent =
        option.get("append_action").and_then(|action| action.choice(&["APPEND_IF_EXISTS_OR_ADD", "ADD_IF_ABSENT"]));
    option.text("header.key").is_some_and(|key| key.eq_ignore_ascii_case(name)) && absent != Some("ADD_IF_ABSENT")
}

pub(super) fn unknown_rule(model: &Model<'_>, found: &mut Found) {
    let extensions = model.checks().flat_map(|check| check.settings().collect::<Vec<_>>());
    let entries = extensions.filter_map(|settings| settings.get("context_extensions"));
    for (key, node) in entries.flat_map(|extensions| extensions.entries().collect::<Vec<_>>()) {
        if key != RULE {
            if key.to_ascii_lowercase().contains("doorward") {
                found.at(&node, format!("Doorward reads `{RULE}` alone: this key does not select a rule"));
            }
            continue;
        }
        known_rule(model, found, &node, node.value.as_str().unwrap_or_default());
    }
    for check in model.checks() {
        for settings in check.per_route().filter_map(|config| config.at("filter_config.value")) {
            // A `Struct`, or the same as JSON text in a `StringValue`.
            if let Some(node) = settings.get("rule") {
                known_rule(model, found, &node, node.value.as_str().unwrap_or_default());
            } else if let Some(text) = settings.value.as_str() {
                let written = serde_json::from_str::<serde_json::Value>(text).unwrap_or_default();
                known_rule(model, found, &settings, written["rule"].as_str().unwrap_or_default());
            }
        }
    }
}

fn known_rule(model: &Model<'_>, found: &mut Found, node: &Node<'_>, name: &str) {
    if let Some(rules) = model.expected.rules.as_ref().filter(|rules| !rules.contains(name)) {
        let known = rules.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        found.at(node, format!("Doorward has no rule `{name}` and answers 400; it has: {known}"));
    }
}

pub(super) fn per_route_ignored(model: &Model<'_>, found: &mut Found) {
    let upstream: BTreeSet<_> = model.clusters.values().flat_map(upstream_filters).collect();
    for manager in &model.managers {
        let upgrades = manager.node.list("upgrade_configs").flat_map(|upgrade| upgrade.list("filters"));
        let routers = manager.filters.iter().flat_map(|filter| filter.config.list("upstream_http_filters"));
        let others: BTreeSet<_> = upgrades.chain(routers).filter_map(|filter| filter.text("name")).collect();
        let mut entry = |key: &str, node: Node<'_>| {
            let config = node.get("config").unwrap_or_else(|| node.clone());
            let mut filters = manager.filters.iter().filter(|filter| filter.name == key).peekable();
            let is_elsewhere = others.contains(key) || upstream.contains(key);
            if filters.peek().is_none() && !is_elsewhere {
                found.at(&node, format!("no filter here is named `{key}`: Envoy ignores this configuration"));
            } else if config.kind == "ExtAuthzPerRoute"
                && !is_elsewhere
                && filters.all(|filter| {
                    !filter.is_elsewhere && filter.condition.is_none() && filter.config.kind != "ExtAuthz"
                })
            {
                found.at(&node, format!("the filter `{key}` is not ext_authz: neither of the two reads this"));
            }
        };
        for config in &manager.route_configs {
            config.any(&mut |node| {
                let entries = node.get("typed_per_filter_config");
                for (key, value) in entries.iter().flat_map(Node::entries) {
                    entry(key, value);
                }
                false
            });
        }
    }
}

/// The names of a cluster's own HTTP filters.
fn upstream_filters<'a>(cluster: &Node<'a>) -> Vec<&'a str> {
    let options = cluster.get("typed_extension_protocol_options");
    let options = options.iter().flat_map(Node::entries).map(|(_, options)| options);
    options.flat_map(|options| options.list("http_filters")).filter_map(|filter| filter.text("name")).collect()
}

pub(super) fn internal_redirect(model: &Model<'_>, found: &mut Found) {
    if !model.expected.withholds_token {
        return;
    }
    for route in model.checked().flat_map(|manager| &manager.routes) {
        let action = route.node.get("route");
        let old = || {
            action.as_ref()?.get("internal_redirect_action").filter(|action| {
                action.choice(&["PASS_THROUGH_INTERNAL_REDIRECT", "HANDLE_INTERNAL_REDIRECT"])
                    == Some("HANDLE_INTERNAL_REDIRECT")
            })
        };
        let policy = action.as_ref().and_then(|action| action.get("internal_redirect_policy"));
        if let Some(policy) = policy.or_else(old) {
            found.at(&policy, "Doorward removes the token from the request (`token.forward: false`), and the request that follows the redirect is checked without a token");
        }
    }
}

/// The node by which Doorward's decision depends on Envoy's choice of the route, if there is one.
fn depends_on_route<'a>(check: &Check<'_, 'a>) -> Option<Node<'a>> {
    check.per_route().next()
}

pub(super) fn rerouted_after_check(model: &Model<'_>, found: &mut Found) {
    for check in model.checks() {
        if depends_on_route(&check).is_none() {
            continue;
        }
        for filter in check.manager.filters[check.at + 1..].iter().filter(|filter| may_reroute(filter)) {
            found.at(
                &filter.node,
                "it may clear the route after the check: a request is checked on one route and served by another",
            );
        }
    }
}

/// Whether a filter can make Envoy select the route again.
fn may_reroute(filter: &Filter<'_>) -> bool {
    let config = &filter.config;
    if filter.node.is("disabled") {
        return false;
    }
    match config.kind {
        "Lua" => config.get("clear_route_cache").is_none_or(|node| !node.is_false()),
        "ExternalProcessor" => {
            let action = config.get("route_cache_action");
            action.and_then(|action| action.choice(&["DEFAULT", "CLEAR", "RETAIN"])) != Some("RETAIN")
                && !config.is("disable_clear_route_cache")
        }
        "GrpcJsonTranscoder" => !config.is("match_incoming_request_route"),
        "Wasm" | "Config" | "DynamicModuleFilter" | "Composite" => {
            config.kind != "Config" || filter.name.contains("golang")
        }
        _ => config.any(&mut |node| node.is("clear_route_cache")),
    }
}

pub(super) fn rerouted_by_check(model: &Model<'_>, found: &mut Found) {
    for check in model.checks() {
        if let Some(node) = check.setting("clear_route_cache").filter(Node::is_true)
            && depends_on_route(&check).is_some()
        {
            found.at(&node, "routes have check settings, and the route is selected again after the check: the new one may have stricter settings");
        }
    }
}

pub(super) fn route_not_chosen_anew(model: &Model<'_>, found: &mut Found) {
    let is_kept = |check: &Check<'_, '_>| !check.setting("clear_route_cache").is_some_and(|node| node.is_true());
    for check in model.checks().filter(is_kept) {
        for header in check.manager.routes.iter().flat_map(|route| route.node.list("match.headers")) {
            let name = header.text("name").unwrap_or_default().to_ascii_lowercase();
            if model.expected.identity.contains(&name) {
                found.at(
                    &header,
                    format!("the route is selected before Doorward sets `{name}`, and not again: this never matches"),
                );
            }
        }
    }
}

pub(super) fn stream_outlives_sign_out(model: &Model<'_>, found: &mut Found) {
    let without_check: BTreeSet<_> = model.without_check().map(|(_, route, _)| &route.node.path).collect();
    for manager in model.checked() {
        let longest = manager.node.seconds("common_http_protocol_options.max_stream_duration");
        let routes =
            manager.routes.iter().filter(|route| route.forwards() && !without_check.contains(&route.node.path));
        for route in routes.filter(|route| !model.ends_streams(manager, route)) {
            let own = route.node.list("route.upgrade_configs").filter(is_websocket).last();
            let general = manager.node.list("upgrade_configs").filter(is_websocket).last();
            let is_upgraded =
                own.or(general).is_some_and(|upgrade| upgrade.get("enabled").is_none_or(|node| !node.is_false()));
            let what = if is_upgraded {
                "an upgraded connection"
            } else if route.node.seconds("route.timeout") == Some(0.0) {
                "an answer without a timeout (events, a gRPC stream, a download)"
            } else {
                continue;
            };
            let own_longest = route.node.seconds("route.max_stream_duration.max_stream_duration");
            if own_longest.or(longest).is_none_or(|seconds| seconds == 0.0) {
                found.at(&route.node, format!("{what} is checked once; without Doorward's ext_proc filter a sign-out does not end it, and without a longest duration it stays open"));
            }
        }
    }
}

fn is_websocket(upgrade: &Node<'_>) -> bool {
    upgrade.text("upgrade_type").is_some_and(|kind| kind.eq_ignore_ascii_case("websocket"))
}
