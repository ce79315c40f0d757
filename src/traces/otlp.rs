//! The exporter of spans.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Span as _, SpanKind, TraceContextExt, Tracer, TracerProvider as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider, SpanData};
use prometheus::IntCounterVec;
use tracing::{info, warn};

use super::Decided;
use crate::clock;

/// Where the spans of decisions go.
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    propagator: TraceContextPropagator,
}

impl Traces {
    /// Whether this build can send traces.
    pub const BUILT_IN: bool = true;
    /// How long the last spans may take when the process ends.
    const FAREWELL: Duration = Duration::from_secs(2);
    /// The length of a `traceparent`, which is 55 bytes today and may be more in a later version.
    const LONGEST_PARENT: usize = 256;

    /// Sends to a collector's gRPC endpoint (`http://` or `https://`, usually port 4317). Spans wait in a bounded
    /// queue on a thread of its own and are dropped when it is full: a decision never waits for the collector.
    /// `exports` counts batches by result. Call it within the runtime.
    ///
    /// The bounds and the service's attributes follow `OTEL_BSP_*` and `OTEL_RESOURCE_ATTRIBUTES`.
    pub fn new(endpoint: &str, exports: IntCounterVec) -> Result<Self, ExporterBuildError> {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let resource = Resource::builder()
            .with_service_name("doorward")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .build();
        let provider = SdkTracerProvider::builder()
            // The proxy decides which traces are kept; a request without a trace does not begin one here.
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)))
            .with_resource(resource)
            .with_batch_exporter(Counted { exporter, exports, failing: AtomicBool::new(false) })
            .build();
        let tracer = provider.tracer("doorward");
        Ok(Self { provider, tracer, propagator: TraceContextPropagator::new() })
    }

    /// Writes down a decision that ended now, under the caller's span.
    pub fn record(&self, traceparent: Option<&[u8]>, decided: &Decided<'_>) {
        let traceparent = traceparent.filter(|field| field.len() <= Self::LONGEST_PARENT);
        let Some(traceparent) = traceparent.and_then(|field| std::str::from_utf8(field).ok()) else { return };
        let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
        let parent = self.propagator.extract_with_context(&Context::new(), &carrier);
        if !parent.span().span_context().is_sampled() {
            return;
        }
        let ended = clock::precisely();
        let mut span = self
            .tracer
            .span_builder("doorward.check")
            .with_kind(SpanKind::Server)
            .with_start_time(ended.checked_sub(decided.took).unwrap_or(ended))
            .with_attributes([
                KeyValue::new("doorward.decision", decided.decision),
                KeyValue::new("doorward.reason", decided.reason),
                KeyValue::new("doorward.rule", decided.rule.to_owned()),
            ])
            .start_with_context(&self.tracer, &parent);
        if let Some(issuer) = decided.issuer {
            span.set_attribute(KeyValue::new("doorward.issuer", issuer.to_owned()));
        }
        span.end_with_timestamp(ended);
    }

    /// Sends the remaining spans and ends; blocks for at most two seconds.
    pub fn finish(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(Self::FAREWELL) {
            warn!(%error, "the last traces were not sent");
        }
    }
}

/// An exporter whose failures are seen: counted each, logged when they begin and when they end.
#[derive(Debug)]
struct Counted {
    exporter: SpanExporter,
    exports: IntCounterVec,
    failing: AtomicBool,
}

impl opentelemetry_sdk::trace::SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.exporter.export(batch).await;
        self.exports.with_label_values(&[if sent.is_ok() { "ok" } else { "failed" }]).inc();
        match (&sent, self.failing.swap(sent.is_err(), Ordering::Relaxed)) {
            (Err(error), false) => warn!(%error, "traces are not sent"),
            (Ok(()), true) => info!("traces are sent again"),
            _ => {}
        }
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
