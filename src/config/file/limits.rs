//! The section `limits`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Span, Within};
use crate::authz::token_cache::TokenCacheLimits;

section! {
    /// The limits of the process.
    #[derive(Copy, Debug, Eq, PartialEq)]
    pub struct Limits {
        /// The most concurrent connections on each listener; a further one is closed at once.
        #[schemars(range(min = 1, max = 65_536), extend("x-restart" = true))]
        pub connections: usize = 1024,
        /// The longest time for a new connection to complete the TLS handshake and send HTTP/2's preface or the head of
        /// a first request.
        #[schemars(transform = Within("100ms", "1m"), extend("x-restart" = true))]
        pub handshake_timeout: Span = Span::seconds(5),
        /// The time after which a connection without requests and responses is closed.
        #[schemars(transform = Within("100ms", "24h"), extend("x-restart" = true))]
        pub idle_timeout: Span = Span::seconds(300),
        /// The interval between two keepalive pings on an HTTP/2 connection.
        #[schemars(transform = Within("100ms", "1h"), extend("x-restart" = true))]
        pub keepalive_interval: Span = Span::seconds(30),
        /// The longest time for the peer to acknowledge a keepalive ping.
        #[schemars(transform = Within("100ms", "1m"), extend("x-restart" = true))]
        pub keepalive_timeout: Span = Span::seconds(10),
        /// The largest header list of one request, in bytes as HTTP/2 counts them (RFC 9113 section 6.5.2).
        #[schemars(range(min = 8192, max = 1_048_576), extend("x-restart" = true))]
        pub header_list_bytes: u32 = 65_536,
        /// The longest time for a request to arrive, from its head to the end of its body, and for the peer to start
        /// reading the responses that wait for it.
        #[schemars(transform = Within("100ms", "1m"), extend("x-restart" = true))]
        pub request_timeout: Span = Span::seconds(5),
        /// The most memory for all requests that arrive or are answered, in bytes; one connection may use a quarter of
        /// it. Requests beyond it are refused.
        #[schemars(range(min = 1_048_576, max = 4_294_967_296_u64), extend("x-restart" = true))]
        pub buffered_bytes: usize = 33_554_432,
        /// The most decisions that wait at once for keys, and the same number each for introspection, for status lists
        /// and for the store. Further ones are refused at once with 503; decisions that need not wait are always made.
        #[schemars(range(min = 1, max = 65_536))]
        pub waiting_decisions: usize = 1024,
        /// The largest CheckRequest, in bytes. Envoy sends up to 60 KiB of headers, and request bodies if configured.
        #[schemars(range(min = 65_536, max = 67_108_864), extend("x-restart" = true))]
        pub grpc_message_bytes: usize = 1_048_576,
        /// The most concurrent requests on one gRPC connection (HTTP/2 streams). Envoy opens one connection per worker,
        /// and a further one when it has more requests.
        #[schemars(range(min = 1, max = 65_536), extend("x-restart" = true))]
        pub grpc_concurrent_streams: u32 = 256,
        /// The most concurrent streams (`ext_proc`) on all connections, under any rule; a further one is refused with
        /// 503.
        #[schemars(range(min = 1, max = 10_000_000))]
        pub streams: usize = 65_536,
        /// The most requests on one gRPC connection that the peer may reset before they are read; one more closes the
        /// connection (CVE-2023-44487). Envoy resets many at once when they time out.
        #[schemars(range(min = 1, max = 65_536), extend("x-restart" = true))]
        pub grpc_pending_resets: usize = 256,
        /// The rate at which a connection is read beyond its requests, in bytes per second: resets, pings, settings,
        /// heads without an end. A peer that sends more waits.
        #[schemars(range(min = 65_536, max = 1_073_741_824), extend("x-restart" = true))]
        pub overhead_bytes_per_second: u32 = 262_144,
        /// The most concurrent requests on one HTTP/2 connection of the HTTP listeners.
        #[schemars(range(min = 1, max = 65_536), extend("x-restart" = true))]
        pub http_concurrent_streams: u32 = 100,
        /// The largest body of an HTTP API request, in bytes.
        #[schemars(range(min = 1024, max = 16_777_216), extend("x-restart" = true))]
        pub http_body_bytes: usize = 65_536,
        /// The longest time for an HTTP API request, its waits included.
        #[schemars(transform = Within("100ms", "10m"), extend("x-restart" = true))]
        pub http_timeout: Span = Span::seconds(10),
        /// The most headers of a checked request; a request with more is refused as `bad_request`.
        #[schemars(range(min = 16, max = 10_000), extend("x-restart" = true))]
        pub request_headers: usize = 1000,
        /// The longest time for one decision with its waits (unknown key, lookup), if the caller does not send a
        /// timeout.
        #[schemars(transform = Within("10ms", "1m"))]
        pub decision_timeout: Span = Span::seconds(1),
        /// The longest time for one operation of the store.
        #[schemars(transform = Within("10ms", "1m"), extend("x-restart" = true))]
        pub store_timeout: Span = Span::seconds(1),
        /// The longest time to look one token up in the store (`read: lookup`, `on_stale: lookup`). It must be shorter
        /// than Envoy's own timeout, which is 200 ms by default.
        #[schemars(transform = Within("5ms", "1m"), extend("x-restart" = true))]
        pub lookup_timeout: Span = Span::millis(100),
        /// The longest time for which `wait=all` may wait for the other instances.
        #[schemars(transform = Within("100ms", "1h"), extend("x-restart" = true))]
        pub receipt_timeout: Span = Span::seconds(30),
        /// The most items on one page of a list.
        #[schemars(range(min = 1, max = 10_000), extend("x-restart" = true))]
        pub list_page: usize = 1000,
        /// The largest key set that is read, in bytes.
        #[schemars(range(min = 1024, max = 16_777_216))]
        pub jwks_bytes: usize = 262_144,
        /// The most verified tokens in the cache, so that their signatures are checked once; 0 disables the cache.
        #[schemars(range(max = 10_000_000))]
        pub token_cache: usize = 100_000,
        /// The most memory of the cache of verified tokens, in bytes; tokens that are seldom used are evicted first. A
        /// token takes 2 to 4 KiB.
        #[schemars(range(max = 68_719_476_736_u64))]
        pub token_cache_bytes: usize = 96_000_000,
        /// The most introspection responses in the cache.
        #[schemars(range(max = 10_000_000))]
        pub introspection_cache: usize = 10_000,
        /// The most concurrent requests to an introspection endpoint.
        #[schemars(range(min = 1, max = 65_536))]
        pub introspection_waiting: usize = 256,
        /// The largest status list that is read, in bytes when decompressed: 16,777,216 tokens at one bit each.
        #[schemars(range(min = 1024, max = 67_108_864))]
        pub status_list_bytes: usize = 2_097_152,
        /// The most stored status lists of one issuer. Tokens of a further list are refused with 503.
        #[schemars(range(min = 1, max = 10_000))]
        pub status_lists: usize = 64,
        /// The most logout tokens, security events and OAuth requests that are processed at once; further ones are
        /// refused with 429.
        #[schemars(range(min = 1, max = 65_536), extend("x-restart" = true))]
        pub inlet_requests: usize = 64,
        /// The time after SIGTERM in which requests are still answered while the health check fails, so that load
        /// balancers notice before connections close. It must be longer than the health checks take; a Doorward beside
        /// a single Envoy that ends first needs none.
        #[schemars(transform = Within("0s", "1h"), extend("x-restart" = true))]
        pub drain_delay: Span = Span::seconds(0),
        /// The longest wait for requests in flight at shutdown.
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
