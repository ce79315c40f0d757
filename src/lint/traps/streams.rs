//! Streams that are to end with their session: the `ext_proc` filter that asks Doorward for it.

use super::super::Found;
use super::super::model::{Filter, Manager, Model, Node, Route};

/// The namespace in which `ext_authz` says whose a stream is.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";
const HEADER_MODES: [&str; 3] = ["DEFAULT", "SEND", "SKIP"];
const BODY_MODES: [&str; 5] = ["NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED"];
/// Longer than this a client goes on reading what has ended.
const LATE: f64 = 0.5;

/// The `ext_proc` filters that ask one of the clusters that the checks ask, with their places.
fn enders<'s, 'a>(model: &Model<'a>, manager: &'s Manager<'a>) -> Vec<(usize, &'s Filter<'a>)> {
    let asked = model.asked();
    let is_ours = |filter: &Filter<'_>| {
        let cluster = filter.config.text("grpc_service.envoy_grpc.cluster_name");
        filter.config.kind == "ExternalProcessor" && cluster.is_some_and(|name| asked.contains_key(name))
    };
    manager.filters.iter().enumerate().filter(|(_, filter)| is_ours(filter)).collect()
}

/// Whether one of them acts on a route.
pub(super) fn ends_streams(model: &Model<'_>, manager: &Manager<'_>, route: &Route<'_>) -> bool {
    let by_module = manager
        .modules()
        .any(|module| !module.config.at("filter_config.value.end_streams").is_some_and(|word| word.is_false()));
    by_module
        || enders(model, manager).into_iter().any(|(_, filter)| match route.per_filter(filter.name).next() {
            Some(word) => !word.is("disabled"),
            None => !filter.node.is("disabled"),
        })
}

fn each<'a>(model: &Model<'a>, mut judge: impl FnMut(&Manager<'a>, usize, &Filter<'a>)) {
    for manager in model.checked() {
        for (at, filter) in enders(model, manager) {
            judge(manager, at, filter);
        }
    }
}

pub(super) fn stream_unproven(model: &Model<'_>, found: &mut Found) {
    each(model, |manager, at, filter| {
        if !manager.checks().any(|check| check.at < at) {
            found.at(
                &filter.node,
                "it stands before ext_authz: nothing says yet whose the stream is, so Doorward refuses every one",
            );
        }
        let mut forwarded = filter.config.list("metadata_options.forwarding_namespaces.untyped");
        if !forwarded.any(|name| name.value.as_str() == Some(NAMESPACE)) {
            found.at(&filter.node, "what ext_authz said of the stream is not forwarded, so Doorward refuses every one");
        }
    });
}

pub(super) fn stream_modes(model: &Model<'_>, found: &mut Found) {
    each(model, |_, _, filter| {
        let mode = |field: &str| filter.config.at(&format!("processing_mode.{field}"));
        let header = |field: &str| mode(field).and_then(|mode| mode.choice(&HEADER_MODES)).unwrap_or("DEFAULT");
        let at = filter.config.get("processing_mode").unwrap_or_else(|| filter.node.clone());
        if header("request_header_mode") == "SKIP" {
            found.at(&at, "request_header_mode: SKIP tells Doorward of no stream, so it ends none");
        }
        if header("response_trailer_mode") != "SEND" {
            found.at(&at, "without response_trailer_mode: SEND Envoy ends the call after the headers, and Doorward can end no stream");
        }
        for field in ["request_body_mode", "response_body_mode"] {
            let sent = mode(field).filter(|mode| mode.choice(&BODY_MODES).is_some_and(|mode| mode != "NONE"));
            if let Some(node) = sent {
                found.at(&node, "Doorward takes no bodies, and ends the stream that brings one");
            }
        }
    });
}

pub(super) fn stream_fail_open(model: &Model<'_>, found: &mut Found) {
    each(model, |_, _, filter| {
        for (field, what) in [
            ("failure_mode_allow", "when Doorward ends the call, or is not there, the stream goes on"),
            ("observability_mode", "Envoy does not listen to Doorward here: no stream ends"),
        ] {
            if let Some(node) = filter.config.get(field).filter(Node::is_true) {
                found.at(&node, what);
            }
        }
    });
}

pub(super) fn stream_closes_late(model: &Model<'_>, found: &mut Found) {
    each(model, |manager, _, filter| {
        let timeout = manager.node.seconds("delayed_close_timeout").unwrap_or(1.0);
        if timeout > LATE {
            let node = manager.node.get("delayed_close_timeout").unwrap_or_else(|| filter.node.clone());
            found.at(
                &node,
                format!("over HTTP/1.1 the connection of a stream that was ended stays open for {timeout} s more"),
            );
        }
    });
}
