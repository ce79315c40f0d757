//! Routes, and the configurations that apply to them.

use super::node::Node;
use crate::config::KeyPath;

/// A route with all configurations that apply to it, the most specific first: weighted cluster, route, virtual host,
/// route configuration.
pub(super) struct Route<'a> {
    pub(super) node: Node<'a>,
    pub(super) levels: Vec<Node<'a>>,
}

/// The routes of a route configuration.
pub(super) fn routes<'a>(config: &Node<'a>) -> Vec<Route<'a>> {
    let mut found = Vec::new();
    for host in config.list("virtual_hosts") {
        let mut written: Vec<_> = host.list("routes").collect();
        if let Some(matcher) = host.get("matcher") {
            matcher.any(&mut |node| {
                match node.kind {
                    "Route" => written.push(node.clone()),
                    "RouteList" => written.extend(node.list("routes")),
                    _ => {}
                }
                false
            });
        }
        for node in written {
            let above = vec![node.clone(), host.clone(), config.clone()];
            let weighted: Vec<_> = node.list("route.weighted_clusters.clusters").collect();
            if weighted.is_empty() {
                found.push(Route { levels: above, node });
                continue;
            }
            for part in weighted {
                found.push(Route { node: node.clone(), levels: [vec![part], above.clone()].concat() });
            }
        }
    }
    found
}

impl<'a> Route<'a> {
    /// The virtual host.
    pub(super) fn host(&self) -> Option<&KeyPath> {
        self.levels.iter().rev().nth(1).map(|host| &host.path)
    }

    /// Whether it takes every request for a path.
    pub(super) fn takes(&self, path: &str) -> bool {
        let Some(wanted) = self.node.get("match") else { return false };
        let prefix = |text: &str| path.starts_with(text);
        let segments =
            |text: &str| path.strip_prefix(text).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let asks_for_more = wanted.entries().count() > 1;
        !asks_for_more
            && (wanted.text("prefix").is_some_and(prefix)
                || wanted.text("path_separated_prefix").is_some_and(segments)
                || wanted.text("path") == Some(path))
    }

    /// The `check_settings` of an ext_authz filter, the most specific first.
    pub(super) fn settings(&self, name: &'a str) -> impl Iterator<Item = Node<'a>> {
        self.per_filter(name).filter_map(|config| within(&config).get("check_settings"))
    }

    /// The per-route configurations of a filter, the most specific first.
    pub(super) fn per_filter(&self, name: &'a str) -> impl Iterator<Item = Node<'a>> {
        let configs = self.levels.iter().filter_map(|level| level.get("typed_per_filter_config"));
        configs.filter_map(move |config| Some(Node::new(config.path.key(name), config.value.get(name)?)))
    }

    /// Whether a request header is removed on the way to the upstream; the removal acts after all filters.
    pub(super) fn removes(&self, name: &str) -> Option<Node<'a>> {
        let removed = self.levels.iter().flat_map(|level| level.list("request_headers_to_remove"));
        removed.into_iter().find(|node| node.value.as_str().is_some_and(|text| text.eq_ignore_ascii_case(name)))
    }

    /// The clusters that it reaches: named by `name` or `cluster`, or by a request's `cluster_header`. Mirrors of the
    /// virtual host or above count too, because a mirror of the route may cover only a part of the requests.
    pub(super) fn targets(&self) -> impl Iterator<Item = Node<'a>> {
        let weighted = self.levels.first().filter(|level| level.path != self.node.path).cloned();
        let main = weighted.or_else(|| self.node.get("route"));
        let above = self.levels.iter().flat_map(|level| level.list("request_mirror_policies"));
        main.into_iter().chain(self.node.list("route.request_mirror_policies")).chain(above)
    }

    /// Whether it goes to an upstream, and is neither a redirect nor a direct response.
    pub(super) fn forwards(&self) -> bool {
        self.node.get("route").is_some()
    }
}

/// The configuration of a filter for a route, out of the `FilterConfig` that may wrap it.
pub(super) fn within<'a>(config: &Node<'a>) -> Node<'a> {
    config.get("config").unwrap_or_else(|| config.clone())
}
