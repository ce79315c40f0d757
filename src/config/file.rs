//! The configuration file as it is written: one type per section, with defaults and no behaviour.
//!
//! The doc comments are the descriptions of the JSON Schema that `doorward validate --schema` prints.
//! Every field has a default, so that a file with faults can still be read as a whole and all its faults
//! be reported at once; what must be written is in the schema's `required` (see [`Required`]).
//!
//! A field is the one description of its setting: text, type, default and, as attributes of the schema, its range and
//! two keywords of our own. `x-restart`: a change takes effect after a restart. `x-shown`: how a fault may show a text
//! that was found there (`text`, `url`, `location`, `secret_file`); a text without it is not shown, so that a new secret
//! stays hidden. `writeOnly`, which `skip_serializing` sets, marks secrets.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::authz::answer::IdentityField;
use crate::state::DecisionLog;
use crate::state::admin_key::Permission;

/// A section: each field with its attributes, its type and its default.
macro_rules! section {
    (
        $(#[$outer:meta])*
        pub struct $name:ident { $($(#[$meta:meta])* pub $field:ident: $type:ty = $default:expr,)+ }
    ) => {
        #[derive(Clone, Deserialize, JsonSchema, Serialize)]
        #[serde(default, deny_unknown_fields)]
        $(#[$outer])*
        pub struct $name { $($(#[$meta])* pub $field: $type,)+ }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)+ }
            }
        }
    };
}

/// The text of a setting that several sections have.
macro_rules! text {
    (insecure) => {
        "Allows plain HTTP to hosts other than loopback."
    };
    (ca_file of $server:literal) => {
        concat!("The CA that signed the certificate of ", $server, ", PEM; by default the CAs of the system.")
    };
}

mod issuers;
mod limits;
mod proxy;
mod requests;
mod resource;
mod revocation;
mod signals;
mod values;

pub use issuers::{
    Accepted, AudiencesFile, BackchannelLogoutFile, ClaimsFile, DpopFile, IntrospectionFile, IssuerFile, KeysFile,
    LogoutScope, OnStoreDown, OneOrMany, ProofFile, PublishStatusListFile, ReplayFile, StatusListFile, Subject, When,
};
pub use limits::Limits;
pub use proxy::{ClientCertificateFile, ProxyFile};
pub use requests::{
    AccessFile, ApiKeyFile, ApiKeyUseFile, ApiKeysFile, BadToken, MatchFile, McpMatchFile, RequireFile, RuleFile,
    SignOutFile, SignOutScope, StreamsFile, ThenFile,
};
pub use resource::ResourceFile;
pub use revocation::{
    AdoptFile, AdoptSetFile, EmbeddedFile, List, OnStaleFile, Read, RedisFile, RelayFile, RelayServerFile,
    RevocationFile, StoreKind,
};
pub use signals::{
    ClientAuthFile, ClientCredentialsFile, PollFile, PushFile, SignalsFile, StreamFile, SubjectFormat, TransmitterFile,
};
pub use values::{Digest, Span};
use values::{Required, Within};

/// The configuration of Doorward.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Doorward", transform = Required(&["issuers"]))]
pub struct ConfigFile {
    /// The addresses of Doorward's listeners.
    #[schemars(extend("x-restart" = true))]
    pub listen: ListenFile,
    /// The accepted token issuers; at least one.
    pub issuers: Vec<IssuerFile>,
    /// The places of the token in a request.
    pub token: TokenFile,
    /// The trusted statements of the proxy in front about a request: the URI that a DPoP proof must name, and the
    /// client's certificate.
    pub proxy: ProxyFile,
    /// The description of the protected resource for OAuth clients (RFC 9728); off by default.
    pub resource: Option<ResourceFile>,
    /// The caller's identity as it is sent to the upstream.
    pub identity: IdentityFile,
    /// Forward-auth for nginx, Traefik and Caddy.
    pub forward_auth: ForwardAuthFile,
    /// The policies for requests: the first rule that matches applies, and a request that matches none is protected.
    #[schemars(extend("x-shown" = "text"))]
    pub rules: Vec<RuleFile>,
    /// API keys, which identify the calling client, its platform and its site.
    pub api_keys: ApiKeysFile,
    /// The store of revocations, and the greatest age of the view of them.
    pub revocation: RevocationFile,
    /// The content of refusals.
    pub errors: Errors,
    /// The keys for the HTTP API.
    pub admin: AdminFile,
    /// The operator's console.
    #[schemars(extend("x-restart" = true))]
    pub console: ConsoleFile,
    /// The receiver for Shared Signals (SSF), whose events revoke tokens.
    pub signals: SignalsFile,
    /// Logs and traces.
    pub telemetry: TelemetryFile,
    /// The limits of the process.
    pub limits: Limits,
}

section! {
    /// The addresses of Doorward's listeners.
    pub struct ListenFile {
        /// The address for Envoy's gRPC ext_authz, health and reflection: `IP:PORT`, or
        /// `unix:/run/doorward/check.sock`.
        #[schemars(example = "127.0.0.1:9191", extend("x-shown" = "text"))]
        pub check: String = "127.0.0.1:9191".to_owned(),
        /// The permissions of the Unix socket, in octal.
        #[schemars(example = "0660", extend("x-shown" = "text"))]
        pub mode: String = "0660".to_owned(),
        /// The address for probes, metrics, the HTTP API and forward-auth: `IP:PORT`; null turns it off.
        #[schemars(example = "127.0.0.1:9192", extend("x-shown" = "text"))]
        pub http: Option<String> = Some("127.0.0.1:9192".to_owned()),
        /// A separate address for the endpoints that require an admin key: `IP:PORT`; null serves them on `http`.
        #[schemars(example = "127.0.0.1:9193", extend("x-shown" = "text"))]
        pub admin: Option<String> = None,
        /// The other origins whose pages may call `/logout`, such as `https://shop.example.com`. A browser's request
        /// from an origin that is neither listed nor that of the request is refused.
        #[schemars(extend("x-shown" = "url"))]
        pub cors_origins: Vec<String> = Vec::new(),
        /// TLS on all TCP listeners; off by default.
        pub tls: Option<TlsFile> = None,
    }
}

/// TLS of the listeners; the files are read again when they change.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = Required(&["cert_file", "key_file"]))]
pub struct TlsFile {
    /// The certificate chain, PEM.
    #[schemars(extend("x-shown" = "text"))]
    pub cert_file: String,
    /// The private key of the certificate, PEM.
    #[schemars(extend("x-shown" = "secret_file"))]
    pub key_file: String,
    /// The CA that must have signed the client's certificate; null does not request one.
    #[schemars(extend("x-shown" = "text"))]
    pub client_ca_file: Option<String>,
}

section! {
    /// The places of the token in a request.
    pub struct TokenFile {
        /// The places to look for a token; a request with two different tokens is refused.
        pub from: Vec<TokenFromFile> = vec![TokenFromFile::bearer()],
        /// False removes the token from the request to the upstream.
        pub forward: bool = true,
        /// The longest token that is read, in bytes.
        #[schemars(range(min = 64, max = 65536))]
        pub max_bytes: usize = 16384,
    }
}

/// A place to look for a token: exactly one of `header`, `cookie`, `query` and `websocket_protocol`.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenFromFile {
    /// The name of a header.
    #[schemars(extend("x-shown" = "text"))]
    pub header: Option<String>,
    /// The scheme before the token in that header; by default `Bearer` in `authorization` and none elsewhere.
    #[schemars(extend("x-shown" = "text"))]
    pub scheme: Option<String>,
    /// The name of a cookie.
    #[schemars(extend("x-shown" = "text"))]
    pub cookie: Option<String>,
    /// True: the cookie may be split into `NAME_0`, `NAME_1`, … or `NAME.0`, `NAME.1`, ….
    pub chunks: Option<bool>,
    /// The name of a query parameter.
    #[schemars(extend("x-shown" = "text"))]
    pub query: Option<String>,
    /// The subprotocol before the token in `Sec-WebSocket-Protocol`.
    #[schemars(example = &"bearer")]
    pub websocket_protocol: Option<String>,
}

impl TokenFromFile {
    fn bearer() -> Self {
        Self { header: Some("authorization".to_owned()), scheme: Some("Bearer".to_owned()), ..Self::default() }
    }
}

section! {
    /// The caller's identity as it is sent to the upstream.
    pub struct IdentityFile {
        /// Header names and their values: {fields}, or `claim:/json/pointer`; the prefix `base64:` encodes the value as
        /// base64url. A header of this name in the client's request is always removed.
        #[schemars(extend("x-shown" = "text"), transform = with_identity_fields)]
        pub headers: BTreeMap<String, String> =
            [("x-user-id", "user_id"), ("x-user-email", "email")].map(|(name, field)| (name.into(), field.into())).into(),
        /// The whole identity as one JSON document in one header; off by default.
        pub payload: Option<PayloadFile> = None,
    }
}

/// Names the fields in a description, for `{fields}`.
fn with_identity_fields(schema: &mut schemars::Schema) {
    let fields: Vec<_> = IdentityField::names().collect();
    let written = schema.get("description").and_then(serde_json::Value::as_str).unwrap_or_default();
    let described = written.replace("{fields}", &fields.join(", "));
    schema.insert("description".to_owned(), described.into());
}

section! {
    /// The identity as base64url JSON, or as a compact JWS when it is signed.
    pub struct PayloadFile {
        /// The header that carries the document.
        #[schemars(extend("x-shown" = "text"))]
        pub header: String = "x-identity".to_owned(),
        /// Signs the document; null sends plain base64url JSON.
        pub sign: Option<SignFile> = None,
        /// The content of the document.
        pub profile: ProfileFile = ProfileFile::default(),
        /// With `profile: txn-token`, the name of the trust domain (`aud`).
        #[schemars(example = "shop.example.com", extend("x-shown" = "text"))]
        pub audience: Option<String> = None,
    }
}

/// The content of the identity payload.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProfileFile {
    /// The fields of the identity.
    #[default]
    Identity,
    /// A transaction token (draft-ietf-oauth-transaction-tokens), which must be signed: `typ` is `txntoken+jwt`, `txn` is
    /// new for each request.
    TxnToken,
}

section! {
    /// The signature of the identity payload.
    #[schemars(transform = Required(&["key_file"]))]
    pub struct SignFile {
        /// The private key, PEM (PKCS #8); its public half is served at `/jwks.json`.
        #[schemars(extend("x-shown" = "secret_file"))]
        pub key_file: String = String::new(),
        /// The time for which the signed payload is valid.
        #[schemars(transform = Within("1s", "1d"))]
        pub ttl: Span = Span::seconds(60),
    }
}

section! {
    /// Responses to proxies that request decisions over HTTP.
    pub struct ForwardAuthFile {
        /// The longest time for which a proxy may cache a response that allows a request; `0s` disables caching. A
        /// sign-out still takes effect within `max_staleness`, but not at once.
        #[schemars(transform = Within("0s", "1h"))]
        pub cache: Span = Span::seconds(0),
    }
}

section! {
    /// The content of refusals.
    #[derive(Debug, Eq, PartialEq)]
    pub struct Errors {
        /// Whether a refusal states its reason to the client.
        pub detail: Detail = Detail::default(),
        /// The `realm` of WWW-Authenticate.
        #[schemars(extend("x-shown" = "text"))]
        pub realm: String = "doorward".to_owned(),
    }
}

/// The detail of a refusal.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// The error code, the reason and a message.
    #[default]
    Reason,
    /// Only the error code.
    Code,
}

/// The keys for the HTTP API.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminFile {
    /// The admin keys; without any, every endpoint that requires one returns 403.
    pub keys: Vec<AdminKeyFile>,
}

/// The operator's console: a page that shows the fleet, revocations and refusals, and revokes tokens.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsoleFile {
    /// Serves the console under `/console/` on `listen.admin`, or on `listen.http` if `listen.admin` is null. The
    /// console requires a key of `admin.keys`.
    pub enabled: bool,
}

/// The key of one user of the HTTP API.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = Required(&["name", "sha256", "may"]))]
pub struct AdminKeyFile {
    /// The name of the key's owner, as it appears in logs.
    pub name: String,
    /// The SHA-256 of the key in hex, as `doorward hash-key` prints it.
    pub sha256: Digest,
    /// The key's permissions.
    #[schemars(extend("x-shown" = "text"))]
    pub may: Vec<Permission>,
}

/// Logs and traces.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryFile {
    /// The log, on standard error.
    pub log: LogFile,
    /// Traces over OTLP.
    #[schemars(extend("x-restart" = true))]
    pub otlp: OtlpFile,
    /// Notifies a webhook when a revoked token is presented; null records it in the log and the metrics only.
    #[schemars(extend("x-restart" = true))]
    pub replay_alarm: Option<ReplayAlarmFile>,
}

section! {
    /// The webhook that is notified when a revoked token is presented.
    #[schemars(transform = Required(&["url"]))]
    pub struct ReplayAlarmFile {
        /// The URL to which a JSON object is posted.
        #[schemars(extend("x-shown" = "url"))]
        pub url: String = String::new(),
        /// The bearer token for the webhook; better in a file.
        #[serde(skip_serializing)]
        pub token: Option<String> = None,
        /// The file that holds the bearer token.
        #[schemars(extend("x-shown" = "secret_file"))]
        pub token_file: Option<String> = None,
        /// The most alarms per minute, in the log as well; further ones are counted in the next alarm.
        #[schemars(range(min = 1, max = 6000))]
        pub per_minute: u32 = 60,
        #[doc = text!(insecure)]
        pub insecure: bool = false,
    }
}

/// The log.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogFile {
    /// JSON lines, or text for people; `auto` writes text to a terminal and JSON elsewhere.
    #[schemars(extend("x-restart" = true))]
    pub format: LogFormat,
    /// The least severe level that is logged.
    #[schemars(extend("x-restart" = true))]
    pub level: LogLevel,
    /// The decisions that are logged.
    pub decisions: DecisionLog,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    #[default]
    Auto,
    Json,
    Text,
}

/// Log levels.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// Traces over OTLP.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpFile {
    /// The collector's gRPC endpoint, such as `http://otel-collector:4317`; null turns traces off. The proxy chooses
    /// which requests are traced (`traceparent`).
    #[schemars(extend("x-shown" = "url"))]
    pub endpoint: Option<String>,
}
