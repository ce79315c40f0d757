//! The model of a configuration: connection managers with their filters and routes, and clusters.

use std::collections::{BTreeMap, BTreeSet};

use super::node::Node;
use super::route::{Route, routes, within};
use super::{Document, Expected, matching};
use crate::config::KeyPath;

/// The checked parts of a configuration.
pub(super) struct Model<'a> {
    pub(super) managers: Vec<Manager<'a>>,
    /// The `TcpProxy` filters, which forward bytes without HTTP.
    pub(super) tcp_proxies: Vec<Node<'a>>,
    pub(super) clusters: BTreeMap<&'a str, Node<'a>>,
    /// Clusters may come from another source.
    pub(super) more_clusters: bool,
    pub(super) expected: &'a Expected,
}

/// An HTTP connection manager.
pub(super) struct Manager<'a> {
    pub(super) node: Node<'a>,
    /// The transport socket of its filter chain.
    transport: Option<Node<'a>>,
    pub(super) filters: Vec<Filter<'a>>,
    pub(super) route_configs: Vec<Node<'a>>,
    pub(super) routes: Vec<Route<'a>>,
}

/// An entry of `http_filters`.
pub(super) struct Filter<'a> {
    pub(super) node: Node<'a>,
    pub(super) name: &'a str,
    /// Its `typed_config`, without wrappers; the entry itself if that is missing.
    pub(super) config: Node<'a>,
    /// The condition under which a request reaches the filter.
    pub(super) condition: Option<Node<'a>>,
    /// Its configuration comes from ECDS and is not in the document.
    pub(super) is_elsewhere: bool,
}

/// Filters whose configuration comes from ECDS, by their names.
type Extensions<'a> = BTreeMap<&'a str, Node<'a>>;

impl<'a> Filter<'a> {
    fn of(node: Node<'a>, extensions: &Extensions<'a>) -> Self {
        let name = node.text("name").unwrap_or_default();
        let discovered = || extensions.get(name).cloned().or_else(|| node.at("config_discovery.default_config"));
        let (mut condition, mut is_elsewhere) = (None, false);
        let mut config = if let Some(config) = node.get("typed_config").or_else(discovered) {
            config
        } else {
            is_elsewhere = node.get("config_discovery").is_some();
            let kinds =
                node.list("config_discovery.type_urls").filter_map(|url| url.value.as_str()).collect::<Vec<_>>();
            let is_listed = |kind: &&str| kinds.iter().any(|url| url.rsplit(['.', '/']).next() == Some(*kind));
            let kind = ["ExtAuthz", "DynamicModuleFilter"].into_iter().find(is_listed).unwrap_or_default();
            Node { kind, ..node.clone() }
        };
        if config.kind == "ExtensionWithMatcher" {
            condition = config.get("xds_matcher").or_else(|| config.get("matcher"));
            config = config.at("extension_config.typed_config").unwrap_or(config);
        }
        if config.kind == "Composite" {
            // The filters that it runs are in the actions of the matcher, or in its own chains.
            let mut check = None;
            for place in condition.iter().chain([&config]) {
                place.any(&mut |node| {
                    let found = node.is_check();
                    if found {
                        check = Some(node.clone());
                    }
                    found
                });
            }
            config = check.unwrap_or(config);
        }
        Self { node, name, config, condition, is_elsewhere }
    }

    /// Whether it is Doorward's module; where ECDS has its configuration, by the name of the filter.
    fn is_module(&self) -> bool {
        let is_named = || self.config.kind == "DynamicModuleFilter" && self.name.contains("doorward");
        self.config.is_module() || self.is_elsewhere && is_named()
    }

    /// The node that disables it on a route: the most specific configuration counts.
    pub(super) fn disabled_on(&self, route: &Route<'a>) -> Option<Node<'a>> {
        let Some(config) = route.per_filter(self.name).next() else {
            return self.node.get("disabled").filter(Node::is_true);
        };
        config.get("disabled").or_else(|| within(&config).get("disabled")).filter(Node::is_true)
    }
}

/// A filter by which Doorward decides, in its chain.
pub(super) struct Check<'s, 'a> {
    pub(super) manager: &'s Manager<'a>,
    pub(super) at: usize,
    pub(super) filter: &'s Filter<'a>,
}

/// An `ext_proc` filter that ends streams with their session.
pub(super) struct Ender<'s, 'a> {
    manager: &'s Manager<'a>,
    pub(super) filter: &'s Filter<'a>,
}

/// The called service: a `GrpcService` or, over HTTP, an `HttpUri`.
pub(super) struct Service<'a> {
    pub(super) node: Node<'a>,
    pub(super) cluster: Option<Node<'a>>,
    pub(super) grpc: bool,
}

impl<'a> Model<'a> {
    pub(super) fn of(document: &'a Document, expected: &'a Expected) -> Self {
        let root = Node::new(KeyPath::default(), &document.root);
        let found = Resources::of(&root);
        let clusters = found.clusters.into_iter().filter_map(|cluster| Some((cluster.text("name")?, cluster)));
        let chains = |listener: &Node<'a>| {
            let chains = listener.list("filter_chains").chain(listener.get("default_filter_chain"));
            chains.flat_map(|chain| {
                let transport = chain.get("transport_socket");
                let configs = chain.list("filters").filter_map(|filter| filter.get("typed_config"));
                configs.map(move |config| (config, transport.clone()))
            })
        };
        let filters: Vec<_> = found.listeners.iter().flat_map(chains).collect();
        let of_kind = |kind: &'static str| filters.iter().filter(move |(config, _)| config.kind == kind).cloned();
        let managers = of_kind("HttpConnectionManager")
            .map(|(node, transport)| Manager::of(node, transport, &found.route_configs, &found.extensions));
        Self {
            managers: managers.collect(),
            tcp_proxies: of_kind("TcpProxy").map(|(config, _)| config).collect(),
            clusters: clusters.collect(),
            more_clusters: found.more_clusters,
            expected,
        }
    }

    /// Every filter by which Doorward decides: `ext_authz`, or its module.
    pub(super) fn checks(&self) -> impl Iterator<Item = Check<'_, 'a>> {
        self.managers.iter().flat_map(Manager::checks)
    }

    /// Every ext_authz filter whose configuration is in the document.
    pub(super) fn configured(&self) -> impl Iterator<Item = Check<'_, 'a>> {
        self.managers.iter().flat_map(Manager::ext_authz).filter(|check| !check.filter.is_elsewhere)
    }

    /// Every connection manager whose requests Doorward decides: by such a filter, or by its module.
    pub(super) fn checked(&self) -> impl Iterator<Item = &Manager<'a>> {
        self.managers.iter().filter(|manager| manager.is_checked())
    }

    /// All services that are called, for a decision or for streams.
    pub(super) fn services(&self) -> impl Iterator<Item = Service<'a>> {
        let enders = self.checked().flat_map(|manager| self.enders(manager)).flat_map(|(_, ender)| ender.services());
        self.checks().flat_map(|check| check.services()).chain(enders)
    }

    /// The clusters of these services, each once; clusters that are not in the document are left out.
    pub(super) fn asked(&self) -> BTreeMap<&'a str, (Node<'a>, bool)> {
        let cluster = |service: Service<'a>| {
            let name = service.cluster?.value.as_str()?;
            Some((name, (self.clusters.get(name)?.clone(), service.grpc)))
        };
        self.services().filter_map(cluster).collect()
    }

    /// Every route without a check, with the node that disables it.
    pub(super) fn without_check(&self) -> impl Iterator<Item = (Check<'_, 'a>, &Route<'a>, Node<'a>)> {
        self.checked().flat_map(|manager| manager.routes.iter().map(move |route| (manager, route))).filter_map(
            |(manager, route)| {
                let mut disabled =
                    manager.checks().map(|check| check.filter.disabled_on(route).map(|node| (check, node)));
                // With two filters, a route is exempt only if both are off.
                let (check, node) = disabled.try_fold(None, |_, check| check.map(Some))??;
                route.forwards().then_some((check, route, node))
            },
        )
    }

    /// Whether an `ext_proc` filter of Doorward's acts on a route.
    pub(super) fn ends_streams(&self, manager: &Manager<'a>, route: &Route<'a>) -> bool {
        let by_module = manager.modules().any(|module| {
            let is_off = module.config.at("filter_config.value.end_streams").is_some_and(|node| node.is_false());
            !is_off && module.disabled_on(route).is_none()
        });
        by_module || self.has_ender(manager, route)
    }

    /// Whether an `ext_proc` filter ends the streams of a route.
    pub(super) fn has_ender(&self, manager: &Manager<'a>, route: &Route<'a>) -> bool {
        self.enders(manager).iter().any(|(_, ender)| ender.filter.disabled_on(route).is_none())
    }

    /// The `ext_proc` filters of a manager that call Doorward, with their places.
    pub(super) fn enders<'s>(&'s self, manager: &'s Manager<'a>) -> Vec<(usize, Ender<'s, 'a>)> {
        let filters = manager.filters.iter().enumerate();
        let filters = filters.filter(|(_, filter)| filter.config.kind == "ExternalProcessor");
        let enders = filters.map(|(at, filter)| (at, Ender { manager, filter }));
        enders.filter(|(_, ender)| self.is_doorwards(ender)).collect()
    }

    /// Whether it calls the same service as a check; if the document does not name that service, whether it forwards
    /// the metadata of ext_authz.
    fn is_doorwards(&self, ender: &Ender<'_, 'a>) -> bool {
        let checks = self.checks().flat_map(|check| check.services());
        let asked: BTreeSet<_> = checks.flat_map(|service| self.places(&service)).collect();
        ender.services().iter().any(|service| {
            let places = self.places(service);
            let is_named = places.len() <= 1 && service.cluster.is_some();
            places.iter().any(|place| asked.contains(place))
                || is_named && ender.configs().any(|config| forwards_subject(&config))
        })
    }

    /// The location of a service: the name of its cluster and the addresses in it, or the target.
    fn places(&self, service: &Service<'a>) -> Vec<String> {
        let Some(name) = service.cluster.as_ref().and_then(|cluster| cluster.value.as_str()) else {
            let target = service.node.text("google_grpc.target_uri").unwrap_or_default();
            let target = target.trim_start_matches("dns:").trim_start_matches("ipv4:").trim_start_matches('/');
            return vec![target.to_owned()];
        };
        let place = |address: Node<'a>| match address.text("pipe.path") {
            Some(path) => format!("unix:{path}"),
            None => format!(
                "{}:{}",
                address.text("socket_address.address").unwrap_or_default(),
                address.number("socket_address.port_value").unwrap_or_default()
            ),
        };
        let cluster = self.clusters.get(name).into_iter().flat_map(addresses);
        std::iter::once(format!("cluster {name}")).chain(cluster.map(place)).collect()
    }
}

/// The namespace in which `ext_authz` stores the subject of a stream.
const NAMESPACE: &str = "envoy.filters.http.ext_authz";

/// Whether an `ext_proc` filter, or a route for it, forwards the metadata of ext_authz.
pub(super) fn forwards_subject(config: &Node<'_>) -> bool {
    let mut forwarded = config.list("metadata_options.forwarding_namespaces.untyped");
    forwarded.any(|name| name.value.as_str() == Some(NAMESPACE))
}

/// The addresses that a cluster lists.
pub(super) fn addresses<'a>(cluster: &Node<'a>) -> impl Iterator<Item = Node<'a>> + use<'a> {
    let localities = cluster.list("load_assignment.endpoints");
    localities.flat_map(|locality| locality.list("lb_endpoints")).filter_map(|endpoint| endpoint.at("endpoint.address"))
}

/// The resources of a document, whatever its form.
#[derive(Default)]
struct Resources<'a> {
    listeners: Vec<Node<'a>>,
    clusters: Vec<Node<'a>>,
    route_configs: Vec<Node<'a>>,
    extensions: Extensions<'a>,
    more_clusters: bool,
}

impl<'a> Resources<'a> {
    fn of(root: &Node<'a>) -> Self {
        let mut found = Self::default();
        if root.get("configs").is_some() {
            for config in root.list("configs") {
                found.dumped(&config);
            }
        } else if root.get("resources").is_some() {
            found.more_clusters = true;
            for resource in root.list("resources") {
                match resource.kind {
                    "Listener" => found.listeners.push(resource),
                    "Cluster" => found.clusters.push(resource),
                    "RouteConfiguration" => found.route_configs.push(resource),
                    "TypedExtensionConfig" => found.extend(&resource),
                    _ => {}
                }
            }
        } else {
            found.listeners.extend(root.list("static_resources.listeners"));
            found.clusters.extend(root.list("static_resources.clusters"));
            found.more_clusters = root.at("dynamic_resources.cds_config").is_some();
        }
        found
    }

    /// Takes a `TypedExtensionConfig`.
    fn extend(&mut self, extension: &Node<'a>) {
        self.extensions.extend(extension.text("name").zip(extension.get("typed_config")));
    }

    /// A part of a `/config_dump`. Its `BootstrapConfigDump` is not read: the other parts have the same resources, as
    /// in force.
    fn dumped(&mut self, config: &Node<'a>) {
        let state = |entry: Node<'a>| entry.get("active_state").or_else(|| entry.get("warming_state")).unwrap_or(entry);
        let within = |lists: [&str; 3], field: &str| {
            let entries = lists.into_iter().flat_map(|list| config.list(list));
            entries.filter_map(|entry| state(entry).get(field)).collect::<Vec<_>>()
        };
        match config.kind {
            "ListenersConfigDump" => {
                self.listeners.extend(within(["static_listeners", "dynamic_listeners", ""], "listener"));
            }
            "ClustersConfigDump" => {
                let lists = ["static_clusters", "dynamic_active_clusters", "dynamic_warming_clusters"];
                self.clusters.extend(within(lists, "cluster"));
            }
            "EcdsConfigDump" => {
                for extension in within(["ecds_filters", "", ""], "ecds_filter") {
                    self.extend(&extension);
                }
            }
            "RoutesConfigDump" => {
                let lists = ["static_route_configs", "dynamic_route_configs", ""];
                self.route_configs.extend(within(lists, "route_config"));
            }
            _ => {}
        }
    }
}

impl<'a> Manager<'a> {
    fn of(
        node: Node<'a>,
        transport: Option<Node<'a>>,
        route_configs: &[Node<'a>],
        extensions: &Extensions<'a>,
    ) -> Self {
        let filters = node.list("http_filters").map(|filter| Filter::of(filter, extensions)).collect();
        let named = |name: &str| route_configs.iter().find(|config| config.text("name") == Some(name)).cloned();
        let list = "scoped_routes.scoped_route_configurations_list.scoped_route_configurations";
        let scoped = node.list(list).filter_map(|scope| {
            scope.get("route_configuration").or_else(|| named(scope.text("route_configuration_name")?))
        });
        let whole = node.get("route_config").or_else(|| named(node.text("rds.route_config_name")?));
        let route_configs: Vec<_> = whole.into_iter().chain(scoped).collect();
        let routes = route_configs.iter().flat_map(routes).collect();
        Self { node, transport, filters, route_configs, routes }
    }

    /// The filters by which Doorward decides, in their order: `ext_authz`, or its module.
    pub(super) fn checks(&self) -> impl Iterator<Item = Check<'_, 'a>> {
        let checks = self.filters.iter().enumerate().map(|(at, filter)| Check { manager: self, at, filter });
        checks.filter(|check| check.filter.config.kind == "ExtAuthz" || check.filter.is_module())
    }

    /// The ext_authz filters among them.
    pub(super) fn ext_authz(&self) -> impl Iterator<Item = Check<'_, 'a>> {
        self.checks().filter(|check| check.filter.config.kind == "ExtAuthz")
    }

    /// The filters among them that are Doorward's module inside Envoy.
    pub(super) fn modules(&self) -> impl Iterator<Item = &Filter<'a>> {
        self.checks().map(|check| check.filter).filter(|filter| filter.is_module())
    }

    pub(super) fn is_checked(&self) -> bool {
        self.checks().next().is_some()
    }

    /// Whether its clients are asked for a certificate (`DownstreamTlsContext`).
    pub(super) fn asks_for_certificate(&self) -> bool {
        let contexts = ["validation_context", "combined_validation_context", "validation_context_sds_secret_config"];
        let asks = |node: &Node<'_>| {
            node.is("require_client_certificate") || contexts.iter().any(|context| node.get(context).is_some())
        };
        self.transport.as_ref().is_some_and(|transport| transport.any(&mut |node| asks(node)))
    }

    /// Whether a request header is removed before anything reads it: by an early header mutation, or by a
    /// `header_mutation` filter before place `end`.
    pub(super) fn strips(&self, name: &str, end: usize) -> bool {
        let early = self.node.list("early_header_mutation_extensions").filter_map(|e| e.get("typed_config"));
        let filters =
            self.filters[..end].iter().filter(|f| f.config.kind == "HeaderMutation" && !f.node.is("disabled"));
        early.into_iter().any(|early| matching::removes(early.list("mutations"), name))
            || filters.into_iter().any(|f| matching::removes(f.config.list("mutations.request_mutations"), name))
            || name.contains('_') && self.drops_underscores()
    }

    /// The routes that a path takes, one of each virtual host; those that ask for more than a path are passed over.
    pub(super) fn routes_of(&self, path: &str) -> Vec<&Route<'a>> {
        let mut found: Vec<&Route<'a>> = Vec::new();
        for route in self.routes.iter().filter(|route| route.takes(path)) {
            let is_later = |known: &&Route<'a>| known.host() == route.host() && known.node.path != route.node.path;
            if !found.iter().any(is_later) {
                found.push(route); // The parts of a weighted route are routes, too.
            }
        }
        found
    }

    fn drops_underscores(&self) -> bool {
        let action = self.node.at("common_http_protocol_options.headers_with_underscores_action");
        let action = action.and_then(|action| action.choice(&["ALLOW", "REJECT_REQUEST", "DROP_HEADER"]));
        matches!(action, Some("DROP_HEADER" | "REJECT_REQUEST"))
    }
}

fn grpc_service<'a>(config: &Node<'a>) -> Option<Service<'a>> {
    let node = config.get("grpc_service")?;
    Some(Service { cluster: node.at("envoy_grpc.cluster_name"), node, grpc: true })
}

impl<'a> Ender<'_, 'a> {
    /// The filter's configuration, then the `ExtProcOverrides` of routes: each of their fields replaces that of the
    /// filter as a whole.
    pub(super) fn configs(&self) -> impl Iterator<Item = Node<'a>> {
        std::iter::once(self.filter.config.clone()).chain(self.overrides())
    }

    /// The overrides of routes.
    pub(super) fn overrides(&self) -> impl Iterator<Item = Node<'a>> {
        let configs = self.manager.routes.iter().flat_map(|route| route.per_filter(self.filter.name));
        configs.filter_map(|config| within(&config).get("overrides"))
    }

    pub(super) fn services(&self) -> Vec<Service<'a>> {
        self.configs().filter_map(|config| grpc_service(&config)).collect()
    }
}

impl<'a> Check<'_, 'a> {
    /// The per-route configurations of this filter.
    pub(super) fn per_route(&self) -> impl Iterator<Item = Node<'a>> {
        self.manager.routes.iter().flat_map(|route| route.per_filter(self.filter.name))
    }

    /// The settings of the filter that are Doorward's or ext_authz's: `clear_route_cache`.
    pub(super) fn setting(&self, name: &str) -> Option<Node<'a>> {
        let module = self.filter.config.at("filter_config.value");
        module.as_ref().unwrap_or(&self.filter.config).get(name)
    }

    /// The `check_settings` of all routes.
    pub(super) fn settings(&self) -> impl Iterator<Item = Node<'a>> {
        self.manager.routes.iter().flat_map(|route| route.settings(self.filter.name))
    }

    /// All called services: of the filter, or of a route in its place.
    pub(super) fn services(&self) -> Vec<Service<'a>> {
        let of = |config: Node<'a>| {
            let grpc = grpc_service(&config);
            let http = || {
                let node = config.at("http_service.server_uri")?;
                Some(Service { cluster: node.get("cluster"), node, grpc: false })
            };
            grpc.or_else(http)
        };
        std::iter::once(self.filter.config.clone()).chain(self.settings()).filter_map(of).collect()
    }
}
