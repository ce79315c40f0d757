//! docs/rate-limits.md: Envoy's own filters count by the identity that Doorward has verified.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_response::Code;
use envoy_types::pb::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use envoy_types::pb::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use serde_json::json;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;

const ROUTER: &str = "                  - name: envoy.filters.http.router\n";

/// The first YAML block of a section of the page.
fn block(section: &str) -> String {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/rate-limits.md")).unwrap();
    let (_, rest) = page.split_once(&format!("## {section}\n")).unwrap();
    rest.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap().to_owned()
}

fn indented(text: &str, by: usize) -> String {
    let space = " ".repeat(by);
    text.lines().flat_map(|line| [&space, line, "\n"]).collect()
}

/// A gateway with these filters behind ext_authz.
async fn gateway(
    binary: &str,
    doorward: &Doorward,
    upstream: &Upstream,
    filters: &str,
    edit: impl Fn(String) -> String,
) -> Envoy {
    let text = envoy::text("envoy/edge-tcp.yaml", &doorward.check, upstream.address);
    assert_eq!(text.matches(ROUTER).count(), 1);
    Envoy::start_text(binary, &edit(text.replace(ROUTER, &format!("{}{ROUTER}", indented(filters, 18))))).await
}

/// The statuses of this number of requests, one after the other.
async fn ask(envoy: &Envoy, token: Option<&str>, times: usize) -> Vec<u16> {
    let client = reqwest::Client::new();
    let mut seen = Vec::new();
    for _ in 0..times {
        let request = client.get(envoy.url("/orders")).header("x-user-id", "somebody-else");
        let request = token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth);
        seen.push(request.send().await.unwrap().status().as_u16());
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn each_user_has_a_limit_of_its_own_in_one_envoy() {
    for binary in envoy::binaries() {
        let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
        let doorward = Doorward::start(&tokens.config("")).await;
        let filter = block("Inside one Envoy");
        let limit = "max_tokens: 60, tokens_per_fill: 60, fill_interval: 60s";
        assert_eq!(filter.matches(limit).count(), 1);
        let filter = filter.replace(limit, "max_tokens: 3, tokens_per_fill: 3, fill_interval: 3600s");
        let envoy = gateway(&binary, &doorward, &upstream, &filter, |text| text).await;
        let (alice, bob) = (tokens.of("alice"), tokens.of("bob"));
        // Refused requests do not count, whatever they claim.
        assert_eq!(ask(&envoy, None, 5).await, [401; 5]);
        assert_eq!(ask(&envoy, Some(&tokens.with(json!({"exp": 1}))), 5).await, [401; 5]);
        assert_eq!(ask(&envoy, Some(&alice), 2).await, [200; 2]);
        // Another token of the same user shares its limit, another user does not.
        assert_eq!(ask(&envoy, Some(&tokens.of("alice")), 3).await, [200, 429, 429]);
        assert_eq!(ask(&envoy, Some(&bob), 4).await, [200, 200, 200, 429]);
        assert_eq!(upstream.seen(), 6);
    }
}

/// A rate limit service that allows two requests for each descriptor, as one of a whole fleet would.
#[derive(Clone, Default)]
struct Counting(Arc<Mutex<BTreeMap<String, usize>>>);

#[tonic::async_trait]
impl RateLimitService for Counting {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let request = request.into_inner();
        let mut counted = self.0.lock().unwrap();
        let mut over = false;
        for descriptor in request.descriptors {
            let entries = descriptor.entries.iter().map(|entry| format!("{}={}", entry.key, entry.value));
            let key = format!("{} {}", request.domain, entries.collect::<Vec<_>>().join(","));
            let count = counted.entry(key).or_default();
            *count += 1;
            over |= *count > 2;
        }
        let overall_code = if over { Code::OverLimit } else { Code::Ok } as i32;
        Ok(Response::new(RateLimitResponse { overall_code, ..RateLimitResponse::default() }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fleet_counts_each_user_once() {
    for binary in envoy::binaries() {
        let (tokens, upstream) = (Tokens::new(), Upstream::start().await);
        let doorward = Doorward::start(&tokens.config("")).await;
        let counting = Counting::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tonic::transport::Server::builder().add_service(RateLimitServiceServer::new(counting.clone()));
        #[expect(clippy::disallowed_methods, reason = "a test's own server, ended with it")]
        let server = tokio::spawn(async move { server.serve_with_incoming(TcpIncoming::from(listener)).await });
        let page = block("In a fleet");
        let (filter, limits) = page.split_once("# at the virtual host or the route\n").unwrap();
        let edit = |text: String| {
            let domains = "                      domains: [\"*\"]\n";
            assert_eq!(text.matches(domains).count(), 1);
            let cluster = format!(
                "    - name: ratelimit\n      type: STATIC\n      typed_extension_protocol_options:\n        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n          \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n          explicit_http_config: {{http2_protocol_options: {{}}}}\n      load_assignment:\n        cluster_name: ratelimit\n        endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]\n"
            );
            let text = text.replace(domains, &format!("{domains}{}", indented(limits, 22)));
            text.replacen("  clusters:\n", &format!("  clusters:\n{cluster}"), 1)
        };
        let filter = filter.replace("timeout: 0.1s", "timeout: 10s");
        let gateways = [
            gateway(&binary, &doorward, &upstream, &filter, edit).await,
            gateway(&binary, &doorward, &upstream, &filter, edit).await,
        ];
        let (alice, bob) = (tokens.of("alice"), tokens.of("bob"));
        assert_eq!(ask(&gateways[0], None, 3).await, [401; 3]);
        assert_eq!(ask(&gateways[0], Some(&alice), 1).await, [200]);
        assert_eq!(ask(&gateways[1], Some(&alice), 3).await, [200, 429, 429]);
        assert_eq!(ask(&gateways[0], Some(&bob), 1).await, [200]);
        let counted: Vec<_> = counting.0.lock().unwrap().clone().into_iter().collect();
        let expected = [("shop user=alice", 4), ("shop user=bob", 1)];
        assert_eq!(counted, expected.map(|(key, count)| (key.to_owned(), count)));
        server.abort();
    }
}
