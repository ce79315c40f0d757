//! Envoy's MCP filter, which sends Doorward the message of a request.

use super::super::Found;
use super::super::model::{Check, Filter, Manager, Model};
use super::super::node::Node;

/// The name of the filter's metadata.
const NAMESPACE: &str = "envoy.filters.http.mcp";

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

/// The MCP filters of a connection manager, by their places.
fn readers<'m, 'a>(manager: &'m Manager<'a>) -> impl Iterator<Item = (usize, &'m Filter<'a>)> {
    manager.filters.iter().enumerate().filter(|(_, filter)| filter.config.kind == "Mcp")
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
        let is_sent = config.list("metadata_context_namespaces").any(|name| name.value.as_str() == Some(NAMESPACE));
        if readers(check.manager).next().is_none() {
            found
                .at(config, "there is no MCP filter: every request that a rule with `match.mcp` may be for is refused");
        } else if let Some(service) = config.get("http_service") {
            found.at(
                &service,
                "over HTTP Envoy sends no metadata: every request that a rule with `match.mcp` may be for is refused",
            );
        } else if !is_sent {
            found.at(config, format!("`{NAMESPACE}` is not among metadata_context_namespaces: every request that a rule with `match.mcp` may be for is refused"));
        }
    }
}

pub(super) fn mcp_ambiguous(model: &Model<'_>, found: &mut Found) {
    let mut judge = |config: &Node<'_>| {
        if config.get("reject_duplicate_keys").is_none_or(|node| !node.is_true()) {
            found.at(
                config,
                "of two tools that one message names, Doorward is told the last, and a server may call the first",
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
