//! The section `limits`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Span;

/// Every bound of the process.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitsFile {
    /// Connections at once on each listener; one more is closed at once.
    #[schemars(range(min = 1, max = 65_536))]
    pub connections: usize,
    /// The longest time until a new connection has shown what it is: the TLS handshake, then HTTP/2's preface or
    /// the head of a first request.
    pub handshake_timeout: Span,
    /// How long a connection on which nothing is asked or answered stays open.
    pub idle_timeout: Span,
    /// How often the peer of an HTTP/2 connection is asked whether it is still there.
    pub keepalive_interval: Span,
    /// How long it may take to say so.
    pub keepalive_timeout: Span,
    /// The most header fields that one request may have, in bytes as HTTP/2 counts them (RFC 9113 section 6.5.2).
    #[schemars(range(min = 8192, max = 1_048_576))]
    pub header_list_bytes: u32,
    /// The longest time in which a request must have arrived, from its head to the end of its body, and in which
    /// the peer must begin to take the answers that wait for it.
    pub request_timeout: Span,
    /// What all requests together may take while they arrive and are answered, in bytes, and
    /// one connection a quarter of it; those beyond it are refused.
    #[schemars(range(min = 1_048_576, max = 4_294_967_296_u64))]
    pub buffered_bytes: usize,
    /// Decisions that wait at once: for keys, for introspection and for the store, so many each. More are
    /// refused at once, with 503; those that need not wait are always made.
    #[schemars(range(min = 1, max = 65_536))]
    pub waiting_decisions: usize,
    /// The largest CheckRequest, in bytes. Envoy sends up to 60 KiB of headers, and bodies if told to.
    #[schemars(range(min = 65_536, max = 67_108_864))]
    pub grpc_message_bytes: usize,
    /// Requests at once on one gRPC connection (HTTP/2 streams). Envoy opens one connection per
    /// worker, and another when it has more to ask.
    #[schemars(range(min = 1, max = 65_536))]
    pub grpc_concurrent_streams: u32,
    /// Streams (`ext_proc`) that are open at once on all connections, whatever their rule; one more is refused with 503.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub streams: usize,
    /// Requests that the peer may take back on one gRPC connection before they were looked at; one more ends
    /// the connection (CVE-2023-44487). Envoy takes many back at once when it has waited too long.
    #[schemars(range(min = 1, max = 65_536))]
    pub grpc_pending_resets: usize,
    /// How fast a connection is read beyond the requests that arrive on it, in bytes a second: resets, pings,
    /// settings, heads without an end. A peer that sends more of them waits.
    #[schemars(range(min = 65_536, max = 1_073_741_824))]
    pub overhead_bytes_per_second: u32,
    /// Requests at once on one HTTP/2 connection of the HTTP listeners.
    #[schemars(range(min = 1, max = 65_536))]
    pub http_concurrent_streams: u32,
    /// The largest body of an HTTP API request, in bytes.
    #[schemars(range(min = 1024, max = 16_777_216))]
    pub http_body_bytes: usize,
    /// The longest time for an HTTP API request, its waits included.
    pub http_timeout: Span,
    /// The most headers of a request that is decided; more are refused as `bad_request`.
    #[schemars(range(min = 16, max = 10_000))]
    pub request_headers: usize,
    /// The longest time for one decision with its waits (unknown key, lookup), when the caller names none.
    pub decision_timeout: Span,
    /// The longest time for one operation of the store.
    pub store_timeout: Span,
    /// The longest time for asking the store about one token (`read: lookup`, `on_stale: lookup`). It must end
    /// before Envoy's own timeout does, which is 200 ms unless it was set.
    pub lookup_timeout: Span,
    /// The longest that `wait=all` may wait for the other instances.
    pub receipt_timeout: Span,
    /// The most items on one page of a list.
    #[schemars(range(min = 1, max = 10_000))]
    pub list_page: usize,
    /// The largest key set that is read, in bytes.
    #[schemars(range(min = 1024, max = 16_777_216))]
    pub jwks_bytes: usize,
    /// Verified tokens that are remembered, so that their signatures are checked once; 0 for none.
    #[schemars(range(max = 10_000_000))]
    pub token_cache: usize,
    /// The most memory for them, in bytes: those seldom used go first. A token takes 2 to 3 KiB.
    #[schemars(range(max = 68_719_476_736_u64))]
    pub token_cache_bytes: usize,
    /// Answers of introspection that are remembered.
    #[schemars(range(max = 10_000_000))]
    pub introspection_cache: usize,
    /// Questions to an introspection endpoint at once.
    #[schemars(range(min = 1, max = 65_536))]
    pub introspection_waiting: usize,
    /// Logout tokens, security events and OAuth requests that are taken in at once; more are answered 429.
    #[schemars(range(min = 1, max = 65_536))]
    pub inlet_requests: usize,
    /// How long to go on answering after SIGTERM while saying that it is not ready, so that whoever checks its
    /// health sends elsewhere before connections close. Longer than their checks take to notice; none is
    /// needed beside a single Envoy that ends first.
    pub drain_delay: Span,
    /// How long requests in flight are waited for at the end.
    pub drain: Span,
}

impl Default for LimitsFile {
    fn default() -> Self {
        Self {
            connections: 1024,
            handshake_timeout: Span::new("5s"),
            idle_timeout: Span::new("5m"),
            keepalive_interval: Span::new("30s"),
            keepalive_timeout: Span::new("10s"),
            header_list_bytes: 65_536,
            request_timeout: Span::new("5s"),
            buffered_bytes: 33_554_432,
            waiting_decisions: 1024,
            grpc_message_bytes: 1_048_576,
            grpc_concurrent_streams: 256,
            streams: 65_536,
            grpc_pending_resets: 256,
            overhead_bytes_per_second: 262_144,
            http_concurrent_streams: 100,
            http_body_bytes: 65_536,
            http_timeout: Span::new("10s"),
            request_headers: 1000,
            decision_timeout: Span::new("1s"),
            store_timeout: Span::new("1s"),
            lookup_timeout: Span::new("100ms"),
            receipt_timeout: Span::new("30s"),
            list_page: 1000,
            jwks_bytes: 262_144,
            token_cache: 100_000,
            token_cache_bytes: 64_000_000,
            introspection_cache: 10_000,
            introspection_waiting: 256,
            inlet_requests: 64,
            drain_delay: Span::new("0s"),
            drain: Span::new("10s"),
        }
    }
}
