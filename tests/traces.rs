//! Traces: Doorward's span stands under Envoy's own, in one trace.

use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
use opentelemetry_proto::tonic::trace::v1::Span;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::support::doorward::Doorward;
use crate::support::envoy::{self, Envoy};
use crate::support::eventually;
use crate::support::grpc::{Checks, get};
use crate::support::tokens::Tokens;
use crate::support::upstream::Upstream;

/// Every span that arrived, with the name of its service.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<(String, Span)>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.unwrap_or_default().attributes;
            let service =
                attributes.iter().find(|attribute| attribute.key == "service.name").map(text).unwrap_or_default();
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.0.lock().unwrap().extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text(attribute: &opentelemetry_proto::tonic::common::v1::KeyValue) -> String {
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    match attribute.value.as_ref().and_then(|value| value.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        other => format!("{other:?}"),
    }
}

impl Collector {
    /// Listens on a free port until the test ends.
    async fn start() -> (Self, u16) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = TraceServiceServer::new(collector.clone());
        let server = tonic::transport::Server::builder().add_service(service);
        #[expect(clippy::disallowed_methods, reason = "a test's own server, ended with it")]
        tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        (collector, port)
    }

    /// The spans of one service.
    fn of(&self, service: &str) -> Vec<Span> {
        let spans = self.0.lock().unwrap();
        spans.iter().filter(|(of, _)| of == service).map(|(_, span)| span.clone()).collect()
    }
}

fn attributes(span: &Span) -> Vec<(String, String)> {
    span.attributes.iter().map(|attribute| (attribute.key.clone(), text(attribute))).collect()
}

fn attribute(name: &str, value: &str) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn config(tokens: &Tokens, port: u16) -> String {
    tokens.config(&format!("telemetry: {{otlp: {{endpoint: \"http://127.0.0.1:{port}\"}}}}\n"))
}

/// An Envoy's configuration that traces every request, to the collector at `port`.
fn tracing(edge: &str, port: u16) -> String {
    let tracing = r#"stat_prefix: edge
                tracing:
                  provider:
                    name: envoy.tracers.opentelemetry
                    typed_config:
                      "@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig
                      service_name: edge
                      grpc_service: {envoy_grpc: {cluster_name: collector}, timeout: 5s}
"#;
    let cluster = format!(
        r#"  clusters:
    - name: collector
      connect_timeout: 5s
      type: STATIC
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {{http2_protocol_options: {{}}}}
      load_assignment:
        cluster_name: collector
        endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]
"#
    );
    edge.replacen("stat_prefix: edge\n", tracing, 1).replacen("  clusters:\n", &cluster, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decision_is_a_span_under_envoy_s() {
    let Some(binary) = envoy::binary() else { return };
    let (tokens, (collector, port), upstream) = (Tokens::new(), Collector::start().await, Upstream::start().await);
    let doorward = Doorward::start(&config(&tokens, port)).await;
    let edge = envoy::text("envoy/edge-tcp.yaml", &doorward.check, upstream.address);
    let envoy = Envoy::start_text(&binary, &tracing(&edge, port)).await;
    let token = tokens.of("alice");
    let client = reqwest::Client::new();
    assert_eq!(client.get(envoy.url("/orders")).bearer_auth(&token).send().await.unwrap().status(), 200);
    assert_eq!(client.get(envoy.url("/orders")).send().await.unwrap().status(), 401);

    eventually("both decisions and Envoy's spans have arrived", || async {
        collector.of("doorward").len() == 2 && collector.of("edge").len() >= 4
    })
    .await;
    let (ours, edge) = (collector.of("doorward"), collector.of("edge"));
    for span in &ours {
        let parent = edge.iter().find(|parent| parent.span_id == span.parent_span_id).expect("Envoy's call of Check");
        assert_eq!(parent.trace_id, span.trace_id);
        assert!(parent.name.contains("Authorization.Check"), "{}", parent.name);
        assert!(edge.iter().any(|request| request.span_id == parent.parent_span_id), "under the request's own");
        assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.start_time_unix_nano > 0);
    }
    let allowed = ours.iter().find(|span| attributes(span).contains(&attribute("doorward.decision", "allowed")));
    assert!(attributes(allowed.unwrap()).contains(&attribute("doorward.issuer", "dev")), "{allowed:?}");
    let denied = ours.iter().find(|span| attributes(span).contains(&attribute("doorward.decision", "denied"))).unwrap();
    assert!(attributes(denied).contains(&attribute("doorward.reason", "missing_token")), "{denied:?}");
    assert!(attributes(denied).contains(&attribute("doorward.rule", "default")), "{denied:?}");
    assert!(!format!("{:?}", collector.0.lock().unwrap()).contains(&token), "no token in a trace");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_decides_what_is_traced_and_the_last_spans_are_sent_at_the_end() {
    let (tokens, (collector, port)) = (Tokens::new(), Collector::start().await);
    let mut doorward = Doorward::start(&config(&tokens, port)).await;
    let checks = Checks::connect(&doorward.check).await;
    let id = "4bf92f3577b34da6a3ce929d0e0e4736";
    for (traceparent, why) in [
        (format!("00-{id}-00f067aa0ba902b7-00"), "not sampled"),
        (format!("00-{id}-00f067aa0ba902b7-zz"), "no flags"),
        (format!("00-{id}-0000000000000000-01"), "no span"),
        ("x".repeat(10_000), "no trace at all"),
    ] {
        let verdict = checks.check(get("/").header("traceparent", &traceparent).token(&tokens.of("alice"))).await;
        assert!(verdict.allowed(), "{why}");
    }
    assert!(checks.check(get("/").token(&tokens.of("alice"))).await.allowed());
    let sampled = format!("00-{id}-00f067aa0ba902b7-01");
    assert!(checks.check(get("/").header("traceparent", &sampled).token(&tokens.of("alice"))).await.allowed());
    doorward.stop().await;
    let spans = collector.of("doorward");
    assert_eq!(spans.len(), 1, "{spans:?}");
    assert_eq!(spans[0].trace_id, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736_u128.to_be_bytes());
    assert_eq!(spans[0].parent_span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_collector_is_counted_and_delays_no_decision() {
    let tokens = Tokens::new();
    let closed = crate::ledger::support::free_port();
    let mut doorward = Doorward::start(&config(&tokens, closed)).await;
    let checks = Checks::connect(&doorward.check).await;
    let sampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for _ in 0..600 {
        // More than one batch.
        assert!(checks.check(get("/").header("traceparent", sampled).token(&tokens.of("alice"))).await.allowed());
    }
    eventually("the failure is counted", || async {
        doorward.metric("doorward_trace_exports_total{result=\"failed\"}").await.is_some_and(|failed| failed > 0.0)
    })
    .await;
    doorward.logs("traces are not sent").await;
    let said = doorward.log.lock().unwrap().iter().filter(|line| line.contains("traces are not sent")).count();
    assert_eq!(said, 1, "said once");
    doorward.stop().await;
}
