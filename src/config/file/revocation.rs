//! The section `revocation`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Required, Span, Within};
use crate::authz::revocation::LONGEST_STALENESS;

section! {
    /// The store of revocations, and the greatest age of the view of them.
    pub struct RevocationFile {
        /// The store of revocations.
        #[schemars(extend("x-restart" = true))]
        pub store: StoreKind = StoreKind::default(),
        /// The settings of `store: embedded`.
        #[schemars(extend("x-restart" = true))]
        pub embedded: EmbeddedFile = EmbeddedFile::default(),
        /// The settings of `store: redis`.
        #[schemars(extend("x-restart" = true))]
        pub redis: RedisFile = RedisFile::default(),
        /// The meaning of the list: refused tokens, or accepted ones.
        #[schemars(extend("x-restart" = true))]
        pub list: List = List::default(),
        /// The way in which a decision reads the list.
        #[schemars(extend("x-restart" = true))]
        pub read: Read = Read::default(),
        /// The greatest age of the view. Set it longer than a routine failover takes; 5s is strict. A rule may set
        /// another value.
        #[schemars(transform = Within("1s", LONGEST_STALENESS))]
        pub max_staleness: Span = Span::seconds(30),
        /// The decision while the view is older than `max_staleness`.
        pub on_stale: OnStaleFile = OnStaleFile::default(),
        /// True accepts a Redis whose `maxmemory-policy` may drop revocations.
        #[schemars(extend("x-restart" = true))]
        pub allow_eviction: bool = false,
        /// True accepts that revocations no longer apply when an issuer gets another name, or when `issuer` or a claim
        /// that names users, sessions or clients changes. Remove it afterwards.
        pub accept_loss: bool = false,
    }
}

/// The store of revocations.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// In this process, for one node.
    Embedded,
    /// In Redis or Valkey, for any number of instances.
    #[default]
    Redis,
}

/// The store of one node.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedFile {
    /// The file on disk; null keeps revocations in memory only.
    #[schemars(extend("x-shown" = "text"))]
    pub path: Option<String>,
}

section! {
    /// Redis or Valkey, 7 or newer.
    pub struct RedisFile {
        /// The URL of the server, with the scheme `redis`, `rediss`, `redis-sentinel`, `rediss-sentinel`,
        /// `redis-cluster`, `rediss-cluster` or `redis+unix`.
        #[serde(skip_serializing_if = "has_credentials")]
        #[schemars(extend("x-shown" = "url"))]
        pub url: String = "redis://127.0.0.1:6379/0".to_owned(),
        /// The ACL user.
        pub username: Option<String> = None,
        /// The password of the user; better in a file.
        #[serde(skip_serializing)]
        pub password: Option<String> = None,
        /// The file with the password.
        #[schemars(extend("x-shown" = "secret_file"))]
        pub password_file: Option<String> = None,
        #[doc = text!(ca_file of "the server")]
        #[schemars(extend("x-shown" = "text"))]
        pub ca_file: Option<String> = None,
        /// The prefix of every key.
        #[schemars(extend("x-shown" = "text"))]
        pub key_prefix: String = "doorward:".to_owned(),
        /// Also applies keys of an existing service, such as `blacklist:{jti}`, with `{token}` for the whole token or
        /// `{token_sha256}` for its SHA-256 in hex, or `{set: KEY}` whose members are token ids; for every issuer. Each
        /// instance scans the database at an interval of half the shortest `max_staleness`; a scan takes about 0.75 ms
        /// of Redis's time for each 1000 keys. No leeway is granted after `exp` then, because such a key expires with the
        /// token.
        #[schemars(extend("x-shown" = "text"))]
        pub adopt: Option<AdoptFile> = None,
        /// The Redis of each other region: this region's revocations are copied there. An instance at a time does so.
        #[schemars(length(max = 16), extend("x-shown" = "url"))]
        pub relay: Vec<RelayFile> = Vec::new(),
        /// The number of replicas that must have a revocation before the response is 2xx (WAIT).
        #[schemars(range(max = 16))]
        pub min_replicas: u32 = 0,
    }
}

/// The Redis of another region.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum RelayFile {
    /// Its URL; the prefix of keys is the same as here.
    Url(String),
    /// Its URL with credentials.
    Server(Box<RelayServerFile>),
}

// Not `RedisFile` with fewer fields by `flatten`: serde does not refuse unknown keys then.
section! {
    /// The Redis of another region, as in `revocation.redis`.
    #[schemars(transform = Required(&["url"]))]
    pub struct RelayServerFile {
        /// The URL of the server, with the same schemes as `revocation.redis.url`.
        #[serde(skip_serializing_if = "has_credentials")]
        #[schemars(extend("x-shown" = "url"))]
        pub url: String = String::new(),
        /// The ACL user.
        pub username: Option<String> = None,
        /// The password of the user; better in a file.
        #[serde(skip_serializing)]
        pub password: Option<String> = None,
        /// The file with the password.
        #[schemars(extend("x-shown" = "secret_file"))]
        pub password_file: Option<String> = None,
        #[doc = text!(ca_file of "the server")]
        #[schemars(extend("x-shown" = "text"))]
        pub ca_file: Option<String> = None,
        /// The prefix of every key there; by default the prefix here.
        #[schemars(extend("x-shown" = "text"))]
        pub key_prefix: Option<String> = None,
    }
}

/// A template of keys, or one set.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum AdoptFile {
    /// A key for each token, with `{jti}`, `{token}` or `{token_sha256}` in it once.
    Keys(String),
    /// The members of one set.
    Set(AdoptSetFile),
}

/// A set whose members are token ids.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AdoptSetFile {
    /// The key of the set.
    pub set: String,
}

/// A URL with credentials is not written anywhere.
fn has_credentials(url: &str) -> bool {
    url.contains('@') || url.contains('?')
}

/// The meaning of the list.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum List {
    /// Refuse listed targets.
    #[default]
    Deny,
    /// Accept only registered token ids.
    Allow,
}

/// The way in which a decision reads the list.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Read {
    /// Every instance has the list in memory.
    #[default]
    Replica,
    /// Each decision takes one round trip to Redis.
    Lookup,
}

/// The decision while the view is older than `max_staleness`.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStaleFile {
    /// Refuse with 503.
    #[default]
    Deny,
    /// Allow the request, and count and mark it.
    Allow,
    /// Look the token of the request up in Redis.
    Lookup,
}
