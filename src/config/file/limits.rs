//! The section `limits`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Span, Within};
use crate::authz::token_cache::TokenCacheLimits;

section! {
    /// Every bound of the process.
    #[derive(Copy, Debug, Eq, PartialEq)]
    pub struct Limits {
        /// Connections at once on each listener; one more is closed at once.
        #[schemars(range(min = 1, max = 65_536), extend("x-restart" = true))]
        pub connections: usize = 1024,
        /// The longest time until a new connection has shown what it is: the TLS handshake, then HTTP/2's preface or
        /// the head of a first request.
        #[schemars(transform = Within("100ms", "1m"), extend("x-restart" = true))]
        pub handshake_timeout: Span = Span::seconds(5),
        /// How long a connection on which nothing is asked or answered stays open.
        #[schemars(transform = Within("100ms", "24h"), extend("x-restart" = true))]
        pub idle_timeout: Span = Span::seconds(300),
        /// How often the peer of an HTTP/2 connection is asked whether it is still there.
        #[schemars(transform = Within("100ms", "1h"), extend("x-restart" = true))]
        pub keepalive_interval: Span = Span::seconds(30),
        /// How long it may take to say so.
        #[schemars(transform = Within("100ms", "1m"), extend("x-restart" = true))]
        pub keepalive_timeout: Span = Span::seconds(10),
        /// The most header fields that one request may have, in bytes as HTTP/2 counts them (RFC 9113 section 6.5.2).
        #[schemars(range(min = 8192, max = 1_048_576), extend("x-restart" = true))]
        pub header_list_bytes: u32 = 65_536,
        /// The longest time in which a request must have arrived, from its head to the end of its body, and in which
        /// the peer must begin to take the answers that wait for it.
        #[schemars(transform = Within("100ms", "1m"), extend("x-restart" = true))]
        pub request_timeout: Span = Span::seconds(5),
        /// What all requests together may take while they arrive and are answered, in bytes, and
        /// one connection a quarter of it; those beyond it are refused.
        #[schemars(range(min = 1_048_576, max = 4_294_967_296_u64), extend("x-restart" = true))]
        pub buffered_bytes: usize = 33_554_432,
        /// Decisions that wait at once: for keys, for introspection, for status lists and for the store, so many each.
        /// More are refused at once, with 503; those that need not wait are always made.
        #[schemars(range(min = 1, max = 65_536))]
        pub waiting_decisions: usize = 1024,
        /// The largest CheckRequest, in bytes. Envoy sends up to 60 KiB of headers, and bodies if told to.
        #[schemars(range(min = 65_536, max = 67_108_864), extend("x-restart" = true))]
        pub grpc_message_bytes: usize = 1_048_576,
        /// Requests at once on one gRPC connection (HTTP/2 streams). Envoy opens one connection per
        /// worker, and another when it has more to ask.
        #[schemars(range(min = 1, max = 65_536), extend("x-restart" = true))]
        pub grpc_concurrent_streams: u32 = 256,
        /// Streams (`ext_proc`) that are open at once on all connections, whatever their rule; one more is refused with 503.
        #[schemars(range(min = 1, max = 10_000_000))]
        pub streams: usize = 65_536,
        /// Requests that the peer may take back on one gRPC connection before they were looked at; one more ends
        /// the connection (CVE-2023-44487). Envoy takes many back at once when it has waited too long.
        #[schemars(range(min = 1, max = 65_536), extend("x-restart" = true))]
        pub grpc_pending_resets: usize = 256,
        /// How fast a connection is read beyond the requests that arrive on it, in bytes a second: resets, pings,
        /// settings, heads without an end. A peer that sends more of them waits.
        #[schemars(range(min = 65_536, max = 1_073_741_824), extend("x-restart" = true))]
        pub overhead_bytes_per_second: u32 = 262_144,
        /// Requests at once on one HTTP/2 connection of the HTTP listeners.
        #[schemars(range(min = 1, max = 65_536), extend("x-restart" = true))]
        pub http_concurrent_streams: u32 = 100,
        /// The largest body of an HTTP API request, in bytes.
        #[schemars(range(min = 1024, max = 16_777_216), extend("x-restart" = true))]
        pub http_body_bytes: usize = 65_536,
        /// The longest time for an HTTP API request, its waits included.
        #[schemars(transform = Within("100ms", "10m"), extend("x-restart" = true))]
        pub http_timeout: Span = Span::seconds(10),
        /// The most headers of a request that is decided; more are refused as `bad_request`.
        #[schemars(range(min = 16, max = 10_000), extend("x-restart" = true))]
        pub request_headers: usize = 1000,
        /// The longest time for one decision with its waits (unknown key, lookup), when the caller names none.
        #[schemars(transform = Within("10ms", "1m"))]
        pub decision_timeout: Span = Span::seconds(1),
        /// The longest time for one operation of the store.
        #[schemars(transform = Within("10ms", "1m"), extend("x-restart" = true))]
        pub store_timeout: Span = Span::seconds(1),
        /// The longest time for asking the store about one token (`read: lookup`, `on_stale: lookup`). It must end
        /// before Envoy's own timeout does, which is 200 ms unless it was set.
        #[schemars(transform = Within("5ms", "1m"), extend("x-restart" = true))]
        pub lookup_timeout: Span = Span::millis(100),
        /// The longest that `wait=all` may wait for the other instances.
        #[schemars(transform = Within("100ms", "1h"), extend("x-restart" = true))]
        pub receipt_timeout: Span = Span::seconds(30),
        /// The most items on one page of a list.
        #[schemars(range(min = 1, max = 10_000), extend("x-restart" = true))]
        pub list_page: usize = 1000,
        /// The largest key set that is read, in bytes.
        #[schemars(range(min = 1024, max = 16_777_216))]
        pub jwks_bytes: usize = 262_144,
        /// Verified tokens that are remembered, so that their signatures are checked once; 0 for none.
        #[schemars(range(max = 10_000_000))]
        pub token_cache: usize = 100_000,
        /// The most memory for them, in bytes: those seldom used go first. A token takes 2 to 3 KiB.
        #[schemars(range(max = 68_719_476_736_u64))]
        pub token_cache_bytes: usize = 64_000_000,
        /// Answers of introspection that are remembered.
        #[schemars(range(max = 10_000_000))]
        pub introspection_cache: usize = 10_000,
        /// Questions to an introspection endpoint at once.
        #[schemars(range(min = 1, max = 65_536))]
        pub introspection_waiting: usize = 256,
        /// The largest status list that is read, in bytes when decompressed: 16,777,216 tokens at one bit each.
        #[schemars(range(min = 1024, max = 67_108_864))]
        pub status_list_bytes: usize = 2_097_152,
        /// The most status lists of one issuer that are held at once. Tokens of a further one are refused with 503.
        #[schemars(range(min = 1, max = 10_000))]
        pub status_lists: usize = 64,
        /// Logout tokens, security events and OAuth requests that are taken in at once; more are answered 429.
        #[schemars(range(min = 1, max = 65_536), extend("x-restart" = true))]
        pub inlet_requests: usize = 64,
        /// How long to go on answering after SIGTERM while saying that it is not ready, so that whoever checks its
        /// health sends elsewhere before connections close. Longer than their checks take to notice; none is
        /// needed beside a single Envoy that ends first.
        #[schemars(transform = Within("0s", "1h"), extend("x-restart" = true))]
        pub drain_delay: Span = Span::seconds(0),
        /// How long requests in flight are waited for at the end.
        #[schemars(transform = Within("0s", "1h"), extend("x-restart" = true))]
        pub drain: Span = Span::seconds(10),
    }
}

impl Limits {
    /// The bounds of the cache of verified tokens.
    #[must_use]
    pub const fn token_cache(&self) -> TokenCacheLimits {
        TokenCacheLimits { tokens: self.token_cache, bytes: self.token_cache_bytes }
    }
}
