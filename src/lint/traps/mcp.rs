//! Envoy's filters that send Doorward the MCP message of a request: `mcp`, and `json_to_metadata` for the body as a whole.

use super::super::Found;
use super::super::matching::any_matches;
use super::super::model::{Check, Filter, Manager, Model};
use super::super::node::Node;
use super::super::route::Route;
use super::routes::RULE;

/// The namespace of the MCP filter's metadata.
const MESSAGE: &str = "envoy.filters.http.mcp";
/// That of the other filter, unless a rule of it has another.
const WHOLE: &str = "envoy.filters.http.json_to_metadata";

/// The fields of the body that `json_to_metadata` must tell: key and selectors.
const FIELDS: [(&str, &[&str]); 3] =
    [("jsonrpc", &["jsonrpc"]), ("method", &["method"]), ("name", &["params", "name"])];

/// The request headers by which a server may read another text in the body than Envoy.
const HEADERS: [&str; 2] = ["content-type", "content-encoding"];

/// The ext_authz filters that must decide rules for messages: those beside an MCP filter. If Doorward's rules are
/// given, the result is empty when no rule is for messages, and has all filters when a rule is but no MCP filter
/// exists.
fn checks<'m, 'a>(model: &'m Model<'a>) -> impl Iterator<Item = Check<'m, 'a>> {
    let is_there = model.managers.iter().any(|manager| readers(manager).next().is_some());
    let wanted = model.expected.rules_for_messages;
    let concerned = move |check: &Check<'_, '_>| match wanted {
        Some(false) => false,
        Some(true) if !is_there => true,
        _ => readers(check.manager).next().is_some(),
    };
    model.configured().filter(concerned)
}

/// The filters of a kind in a connection manager, by their places.
fn of_kind<'m, 'a>(manager: &'m Manager<'a>, kind: &'static str) -> impl Iterator<Item = (usize, &'m Filter<'a>)> {
    manager.filters.iter().enumerate().filter(move |(_, filter)| filter.config.kind == kind)
}

/// The MCP filters.
fn readers<'m, 'a>(manager: &'m Manager<'a>) -> impl Iterator<Item = (usize, &'m Filter<'a>)> {
    of_kind(manager, "Mcp")
}

/// The `json_to_metadata` filters.
fn whole<'m, 'a>(manager: &'m Manager<'a>) -> impl Iterator<Item = (usize, &'m Filter<'a>)> {
    of_kind(manager, "JsonToMetadata")
}

pub(super) fn mcp_after_check(model: &Model<'_>, found: &mut Found) {
    for check in checks(model) {
        if readers(check.manager).all(|(at, _)| at > check.at) {
            for (_, filter) in readers(check.manager) {
                found.at(&filter.node, "Doorward is asked before the message is read: every request that a rule with `match.mcp` may be for is refused");
            }
        }
    }
}

pub(super) fn mcp_not_sent(model: &Model<'_>, found: &mut Found) {
    for check in checks(model) {
        let config = &check.filter.config;
        if readers(check.manager).next().is_none() {
            found
                .at(config, "there is no MCP filter: every request that a rule with `match.mcp` may be for is refused");
            continue;
        }
        if let Some(service) = config.get("http_service") {
            found.at(
                &service,
                "over HTTP Envoy sends no metadata: every request that a rule with `match.mcp` may be for is refused",
            );
            continue;
        }
        let sent: Vec<_> = config.list("metadata_context_namespaces").filter_map(|name| name.value.as_str()).collect();
        let missing: Vec<_> = [WHOLE, MESSAGE].into_iter().filter(|name| !sent.contains(name)).collect();
        if !missing.is_empty() {
            let missing = missing.join("` and `");
            found.at(config, format!("metadata_context_namespaces lacks `{missing}`: every request that a rule with `match.mcp` may be for is refused"));
        }
        let (allowed, withheld) = (config.get("allowed_headers"), config.get("disallowed_headers"));
        let is_sent = |name: &&str| {
            allowed.as_ref().is_none_or(|list| any_matches(list, name))
                && !withheld.as_ref().is_some_and(|list| any_matches(list, name))
        };
        let missing: Vec<_> = HEADERS.into_iter().filter(|name| !is_sent(name)).collect();
        if !missing.is_empty() {
            let place = allowed.as_ref().or(withheld.as_ref()).unwrap_or(config);
            found.at(place, format!("`{}` is not sent, by which a server may read another message than Envoy: without content-type every request that a rule with `match.mcp` may be for is refused", missing.join("` and `")));
        }
        for (_, filter) in readers(check.manager).chain(whole(check.manager)) {
            for node in disabled(model, check.manager, filter) {
                found.at(&node, format!("`{}` is off where a rule with `match.mcp` needs it: every request that the rule may be for is refused", filter.name));
            }
        }
    }
}

pub(super) fn mcp_rule_named(model: &Model<'_>, found: &mut Found) {
    for check in checks(model) {
        let routes = model.expected.message_paths.iter().flat_map(|path| check.manager.routes_of(path));
        let extensions = routes.flat_map(|route| route.settings(check.filter.name));
        let entries = extensions.filter_map(|settings| settings.get("context_extensions"));
        for (_, node) in entries.flat_map(|entries| entries.entries()).filter(|(key, _)| *key == RULE) {
            found.at(
                &node,
                "this rule decides whatever the message is: `match.mcp` of the rules for this path is ignored",
            );
        }
    }
}

/// Where a filter is off for the paths of rules for messages; without the rules, where it is off on every route.
fn disabled<'a>(model: &Model<'a>, manager: &Manager<'a>, filter: &Filter<'a>) -> Vec<Node<'a>> {
    if model.expected.rules_for_messages.is_none() {
        let everywhere: Option<Vec<_>> = manager.routes.iter().map(|route| filter.disabled_on(route)).collect();
        return everywhere.unwrap_or_default();
    }
    let paths = model.expected.message_paths.iter();
    paths.flat_map(|path| manager.routes_of(path)).filter_map(|route| filter.disabled_on(route)).collect()
}

pub(super) fn mcp_body_unread(model: &Model<'_>, found: &mut Found) {
    for check in checks(model) {
        let mut before = whole(check.manager).filter(|(at, _)| *at < check.at).peekable();
        if before.peek().is_none() {
            for (_, filter) in readers(check.manager) {
                found.at(&filter.node, "no json_to_metadata filter before ext_authz reads the body to its end, and the MCP filter stops at the end of the message: every request that a rule with `match.mcp` may be for is refused");
            }
        }
        for (_, filter) in before {
            let rules: Vec<_> = filter.config.list("request_rules.rules").collect();
            let covered = |key: &str, selectors: &[&str]| rules.iter().any(|rule| covers(rule, key, selectors));
            let missing: Vec<_> = FIELDS.iter().filter(|(key, of)| !covered(key, of)).map(|(key, _)| *key).collect();
            if !missing.is_empty() {
                found.at(&filter.config, format!("no rule writes the body's values for `{}`: every request that a rule with `match.mcp` may be for is refused", missing.join("`, `")));
            }
        }
    }
}

/// Whether a rule of `json_to_metadata` writes the selected value under this key.
fn covers(rule: &Node<'_>, key: &str, selectors: &[&str]) -> bool {
    let selected: Vec<_> = rule.list("selectors").map(|selector| selector.text("key").unwrap_or_default()).collect();
    let written =
        |target: &Node<'_>| target.text("key") == Some(key) && is_of(target, WHOLE) && target.get("value").is_none();
    selected == selectors && rule.get("on_present").is_some_and(|target| written(&target))
}

/// Whether a `KeyValuePair` of `json_to_metadata` is written into a namespace.
fn is_of(target: &Node<'_>, namespace: &str) -> bool {
    target.text("metadata_namespace").filter(|name| !name.is_empty()).unwrap_or(WHOLE) == namespace
}

pub(super) fn mcp_forged(model: &Model<'_>, found: &mut Found) {
    const SAYS: &str = "what this writes counts as the message of the request: a client that chooses it is judged by another call than it makes";
    for check in checks(model) {
        for filter in &check.manager.filters[..check.at] {
            let routes = check.manager.routes.iter().flat_map(|route| route.per_filter(filter.name));
            for config in std::iter::once(filter.config.clone()).chain(routes) {
                if filter.config.kind == "JsonToMetadata" {
                    for rule in config.list("request_rules.rules") {
                        let targets = ["on_present", "on_missing", "on_error"].map(|field| rule.get(field));
                        let is_plain = FIELDS.iter().any(|(key, selectors)| covers(&rule, key, selectors));
                        for (at, target) in targets.into_iter().enumerate() {
                            let Some(target) = target else { continue };
                            let key = target.text("key").unwrap_or_default();
                            let is_field = is_of(&target, WHOLE) && FIELDS.iter().any(|(field, _)| *field == key);
                            if is_of(&target, MESSAGE) || is_field && !(at == 0 && is_plain) {
                                found.at(&target, SAYS);
                            }
                        }
                    }
                } else if filter.config.kind != "Mcp" {
                    config.any(&mut |node| {
                        let into = node.text("metadata_namespace").into_iter();
                        let received = node.list("receiving_namespaces.untyped").filter_map(|name| name.value.as_str());
                        if into.chain(received).any(|name| [MESSAGE, WHOLE].contains(&name)) {
                            found.at(node, SAYS);
                        }
                        false
                    });
                }
            }
        }
    }
}

pub(super) fn resource_not_routed(model: &Model<'_>, found: &mut Found) {
    let leads = |route: &Route<'_>| {
        let of = |field: &str| route.node.text(field).is_some_and(|text| text.contains("oauth-protected-resource"));
        ["match.prefix", "match.path_separated_prefix", "match.path", "match.safe_regex.regex"].into_iter().any(of)
    };
    // Where the routes are in another document, nothing is known of them.
    let is_known = |manager: &Manager<'_>| !manager.routes.is_empty();
    let is_missing = model.expected.has_resource
        && model.managers.iter().all(is_known)
        && !model.managers.iter().flat_map(|manager| &manager.routes).any(leads);
    for manager in model.checked().filter(|_| is_missing) {
        for config in manager.route_configs.iter().take(1) {
            found.at(config, "no route leads to /.well-known/oauth-protected-resource, which every challenge names: clients do not find out where to get a token");
        }
    }
}

pub(super) fn mcp_ambiguous(model: &Model<'_>, found: &mut Found) {
    let mut judge = |config: &Node<'_>| {
        if config.get("reject_duplicate_keys").is_none_or(|node| !node.is_true()) {
            found.at(
                config,
                "if a message names two tools, Doorward receives the last one; a server may call the first",
            );
        }
        let source = config.get("attribute_source");
        if let Some(source) = source.filter(|node| node.choice(&["BODY", "VERIFY", "HEADERS"]) == Some("HEADERS")) {
            found.at(&source, "method and tool are what the headers of the client say, whatever the body calls");
        }
        let storage = config.get("request_storage_mode");
        let names = ["MODE_UNSPECIFIED", "DYNAMIC_METADATA", "FILTER_STATE", "DYNAMIC_METADATA_AND_FILTER_STATE"];
        if let Some(storage) = storage.filter(|node| node.choice(&names) == Some("FILTER_STATE")) {
            found.at(&storage, "the message does not stand in the metadata, which alone Doorward is sent");
        }
    };
    for check in checks(model) {
        readers(check.manager).for_each(|(_, filter)| judge(&filter.config));
    }
}
