//! Streams that should end with their session: the `ext_proc` filter that calls Doorward.

use std::collections::BTreeSet;

use super::super::Found;
use super::super::model::{Ender, Manager, Model, forwards_subject};
use super::super::node::Node;

const HEADER_MODES: [&str; 3] = ["DEFAULT", "SEND", "SKIP"];
const BODY_MODES: [&str; 5] = ["NONE", "STREAMED", "BUFFERED", "BUFFERED_PARTIAL", "FULL_DUPLEX_STREAMED"];
/// The longest acceptable time for which a client still reads a stream that has ended.
const LATE: f64 = 0.5;

fn each<'a>(model: &Model<'a>, mut judge: impl FnMut(&Manager<'a>, usize, &Ender<'_, 'a>)) {
    for manager in model.checked() {
        for (at, ender) in model.enders(manager) {
            judge(manager, at, &ender);
        }
    }
}

pub(super) fn stream_unproven(model: &Model<'_>, found: &mut Found) {
    each(model, |manager, at, ender| {
        if !manager.ext_authz().any(|check| check.at < at) {
            found.at(
                &ender.filter.node,
                "it is before ext_authz: the subject of a stream is not known yet, so Doorward refuses every stream",
            );
        }
        let routes = ender.overrides().filter_map(|node| {
            node.at("metadata_options.forwarding_namespaces")?;
            (!forwards_subject(&node)).then(|| node.get("metadata_options")).flatten()
        });
        let general = (!forwards_subject(&ender.filter.config)).then(|| ender.filter.node.clone());
        for node in general.into_iter().chain(routes) {
            found.at(&node, "the metadata of ext_authz is not forwarded, so Doorward refuses every stream");
        }
        if manager.routes.iter().any(|route| ender.filter.disabled_on(route).is_none()) {
            let written = manager.ext_authz().filter(|check| check.at < at);
            let switches = written.filter_map(|check| check.filter.config.get("enable_dynamic_metadata_ingestion"));
            for node in switches.filter(Node::is_false) {
                found.at(&node, "Envoy drops Doorward's metadata of a stream, so Doorward refuses every stream");
            }
        }
    });
    for (check, route, node) in model.without_check() {
        if model.has_ender(check.manager, route) {
            found.at(
                &node,
                "ext_authz is off where ext_proc is on: the subject of a stream is not known, so Doorward refuses every stream",
            );
        }
    }
}

pub(super) fn stream_modes(model: &Model<'_>, found: &mut Found) {
    each(model, |_, _, ender| {
        let general = ender.filter.config.get("processing_mode").ok_or_else(|| ender.filter.node.clone());
        let routes = ender.overrides().filter_map(|node| node.get("processing_mode"));
        for mode in std::iter::once(general).chain(routes.map(Ok)) {
            let field = |field: &str| mode.as_ref().ok()?.get(field);
            let header = |name: &str| field(name).and_then(|mode| mode.choice(&HEADER_MODES)).unwrap_or("DEFAULT");
            let (Ok(at) | Err(at)) = &mode;
            if header("request_header_mode") == "SKIP" {
                found.at(at, "request_header_mode: SKIP hides all streams from Doorward, so it ends none");
            }
            if header("response_trailer_mode") != "SEND" {
                found.at(at, "without response_trailer_mode: SEND Envoy ends the call after the headers, and Doorward cannot end a stream");
            }
            for name in ["request_body_mode", "response_body_mode"] {
                let sent = field(name).filter(|mode| mode.choice(&BODY_MODES).is_some_and(|mode| mode != "NONE"));
                if let Some(node) = sent {
                    found.at(&node, "Doorward accepts no bodies, and ends a stream that sends one");
                }
            }
        }
    });
}

pub(super) fn stream_fail_open(model: &Model<'_>, found: &mut Found) {
    each(model, |_, _, ender| {
        for (field, what) in [
            ("failure_mode_allow", "when Doorward ends the call, or does not run, the stream continues"),
            ("observability_mode", "Envoy ignores Doorward's answers here: no stream ends"),
        ] {
            for node in ender.configs().filter_map(|config| config.get(field)).filter(Node::is_true) {
                found.at(&node, what);
            }
        }
    });
}

pub(super) fn stream_shares_cluster(model: &Model<'_>, found: &mut Found) {
    let name = |cluster: &Node<'_>| cluster.value.as_str().unwrap_or_default().to_owned();
    let checks = model.checks().flat_map(|check| check.services()).filter_map(|service| service.cluster);
    let checks: BTreeSet<_> = checks.map(|cluster| name(&cluster)).collect();
    each(model, |_, _, ender| {
        let clusters = ender.services().into_iter().filter_map(|service| service.cluster);
        for cluster in clusters.filter(|cluster| checks.contains(&name(cluster))) {
            found.at(&cluster, "each open stream counts against this cluster's max_requests: at that number of streams every check is refused with 503");
        }
    });
}

pub(super) fn stream_closes_late(model: &Model<'_>, found: &mut Found) {
    each(model, |manager, _, ender| {
        let timeout = manager.node.seconds("delayed_close_timeout").unwrap_or(1.0);
        if timeout > LATE {
            let node = manager.node.get("delayed_close_timeout").unwrap_or_else(|| ender.filter.node.clone());
            found.at(
                &node,
                format!("over HTTP/1.1 the connection of a stream that was ended stays open for {timeout} s more"),
            );
        }
    });
}
