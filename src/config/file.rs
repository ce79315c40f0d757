//! The configuration file as it is written: one type per section, with defaults and no behaviour.
//!
//! The doc comments are the descriptions of the JSON Schema that `doorward validate --schema` prints.
//! Every field has a default, so that a file with faults can still be read as a whole and all its faults
//! be reported at once; what must be written is in the schema's `required` (see [`Required`]).

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Serialize};

mod issuers;
mod limits;
mod proxy;
mod requests;
mod resource;
mod revocation;
mod signals;

pub use issuers::{
    Accepted, AudiencesFile, BackchannelLogoutFile, ClaimsFile, DpopFile, IntrospectionFile, IssuerFile, KeysFile,
    LogoutScope, OnStoreDown, OneOrMany, ProofFile, ReplayFile, Subject, When,
};
pub use limits::LimitsFile;
pub use proxy::{ClientCertificateFile, ProxyFile};
pub use requests::{
    AccessFile, ApiKeyFile, ApiKeyUseFile, ApiKeysFile, BadToken, MatchFile, McpMatchFile, RequireFile, RuleFile,
    SignOutFile, SignOutScope, StreamsFile, ThenFile,
};
pub use resource::ResourceFile;
pub use revocation::{
    AdoptFile, AdoptSetFile, EmbeddedFile, List, OnStaleFile, Read, RedisFile, RevocationFile, StoreKind,
};
pub use signals::{PollFile, PushFile, SignalsFile, StreamFile, SubjectFormat, TransmitterFile};

/// The configuration of Doorward.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "Doorward", transform = Required(&["issuers"]))]
pub struct ConfigFile {
    /// Where Doorward listens. Changes need a restart.
    pub listen: ListenFile,
    /// The accepted token issuers; at least one.
    pub issuers: Vec<IssuerFile>,
    /// Where tokens stand in requests.
    pub token: TokenFile,
    /// What the proxy in front is believed to say about a request: the URI that a DPoP proof must name, and the
    /// client's certificate.
    pub proxy: ProxyFile,
    /// The description of the protected resource for OAuth clients (RFC 9728); off by default.
    pub resource: Option<ResourceFile>,
    /// The caller's identity as it is sent to the upstream.
    pub identity: IdentityFile,
    /// Answers to nginx, Traefik and Caddy.
    pub forward_auth: ForwardAuthFile,
    /// Which policy a request meets: the first that matches; none means protected.
    pub rules: Vec<RuleFile>,
    /// Which client is calling, from which platform and site.
    pub api_keys: ApiKeysFile,
    /// Where revocations are kept, and how old the view of them may be. All but `max_staleness` and `on_stale`
    /// needs a restart when it changes.
    pub revocation: RevocationFile,
    /// How refusals are worded.
    pub errors: ErrorsFile,
    /// The keys that may use the HTTP API.
    pub admin: AdminFile,
    /// Shared Signals that revoke.
    pub signals: SignalsFile,
    /// Logs and traces. All but `log.decisions` needs a restart when it changes.
    pub telemetry: TelemetryFile,
    /// Every bound of the process. Most need a restart when they change; the log of a reload names them.
    pub limits: LimitsFile,
}

/// Where Doorward listens.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ListenFile {
    /// Envoy's gRPC ext_authz, health and reflection: `IP:PORT`, or `unix:/run/doorward/check.sock`.
    #[schemars(example = "127.0.0.1:9191")]
    pub check: String,
    /// The permissions of the Unix socket, in octal.
    #[schemars(example = "0660")]
    pub mode: String,
    /// Probes, metrics, HTTP API and forward-auth: `IP:PORT`; null turns it off.
    #[schemars(example = "127.0.0.1:9192")]
    pub http: Option<String>,
    /// An address of its own for what needs an admin key: `IP:PORT`; null serves it on `http`.
    #[schemars(example = "127.0.0.1:9193")]
    pub admin: Option<String>,
    /// Other sites whose pages may call `/logout`, such as `https://shop.example.com`. A browser's request
    /// from a site that is neither listed nor the one it asks is refused.
    pub cors_origins: Vec<String>,
    /// TLS on all TCP listeners; off by default.
    pub tls: Option<TlsFile>,
}

impl Default for ListenFile {
    fn default() -> Self {
        Self {
            check: "127.0.0.1:9191".to_owned(),
            mode: "0660".to_owned(),
            http: Some("127.0.0.1:9192".to_owned()),
            admin: None,
            cors_origins: Vec::new(),
            tls: None,
        }
    }
}

/// TLS of the listeners; the files are read again when they change.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = Required(&["cert_file", "key_file"]))]
pub struct TlsFile {
    /// The certificate chain, PEM.
    pub cert_file: String,
    /// Its private key, PEM.
    pub key_file: String,
    /// The CA that must have signed the client's certificate; null asks for none.
    pub client_ca_file: Option<String>,
}

/// Where tokens stand in requests.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenFile {
    /// Where tokens are looked for; two different tokens in one request are refused.
    pub from: Vec<TokenFromFile>,
    /// False removes the token before the upstream.
    pub forward: bool,
    /// The longest token that is read, in bytes.
    #[schemars(range(min = 64, max = 65536))]
    pub max_bytes: usize,
}

impl Default for TokenFile {
    fn default() -> Self {
        let header = TokenFromFile { header: Some("authorization".to_owned()), ..TokenFromFile::default() };
        let from = vec![TokenFromFile { scheme: Some("Bearer".to_owned()), ..header }];
        Self { from, forward: true, max_bytes: 16384 }
    }
}

/// A place where a token is looked for: exactly one of `header`, `cookie`, `query` and `websocket_protocol`.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TokenFromFile {
    /// The name of a header.
    pub header: Option<String>,
    /// The scheme before the token in that header; by default `Bearer` in `authorization` and none elsewhere.
    pub scheme: Option<String>,
    /// The name of a cookie.
    pub cookie: Option<String>,
    /// True: the cookie may be cut into `NAME_0`, `NAME_1`, … or `NAME.0`, `NAME.1`, ….
    pub chunks: Option<bool>,
    /// The name of a query parameter.
    pub query: Option<String>,
    /// The subprotocol before the token in `Sec-WebSocket-Protocol`.
    #[schemars(example = &"bearer")]
    pub websocket_protocol: Option<String>,
}

/// The caller's identity as it is sent to the upstream.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentityFile {
    /// Header names and what they carry: user_id, email, session_id, client_id, token_id, issuer, scopes,
    /// expires_at, api_client, or `claim:/json/pointer`; `base64:` before one of these writes it as base64url.
    /// The client's own copies never pass.
    pub headers: BTreeMap<String, String>,
    /// All of it as one JSON document in one header; off by default.
    pub payload: Option<PayloadFile>,
}

impl Default for IdentityFile {
    fn default() -> Self {
        let headers = [("x-user-id", "user_id"), ("x-user-email", "email")];
        Self { headers: headers.map(|(name, field)| (name.to_owned(), field.to_owned())).into(), payload: None }
    }
}

/// The identity as base64url JSON, or as a compact JWS when it is signed.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PayloadFile {
    /// The header that carries it.
    pub header: String,
    /// Signs it; null sends plain base64url JSON.
    pub sign: Option<SignFile>,
    /// What it says.
    pub profile: ProfileFile,
    /// With `profile: txn-token`, the name of the trust domain (`aud`).
    #[schemars(example = "shop.example.com")]
    pub audience: Option<String>,
}

/// What the identity payload says.
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

impl Default for PayloadFile {
    fn default() -> Self {
        Self { header: "x-identity".to_owned(), sign: None, profile: ProfileFile::default(), audience: None }
    }
}

/// How the identity payload is signed.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = Required(&["key_file"]))]
pub struct SignFile {
    /// The private key, PEM (PKCS #8); its public half is served at `/jwks.json`.
    pub key_file: String,
    /// How long the signed payload is valid.
    pub ttl: Span,
}

impl Default for SignFile {
    fn default() -> Self {
        Self { key_file: String::new(), ttl: Span::new("60s") }
    }
}

/// Answers to proxies that ask over HTTP.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ForwardAuthFile {
    /// How long a proxy may keep an answer that allows, at most; `0s`: not at all. A sign-out takes at most
    /// `max_staleness` all the same, but no longer effect at once.
    pub cache: Span,
}

impl Default for ForwardAuthFile {
    fn default() -> Self {
        Self { cache: Span::new("0s") }
    }
}

/// How refusals are worded.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ErrorsFile {
    /// Whether clients are told why they are refused.
    pub detail: Detail,
    /// The `realm` of WWW-Authenticate.
    pub realm: String,
}

impl Default for ErrorsFile {
    fn default() -> Self {
        Self { detail: Detail::default(), realm: "doorward".to_owned() }
    }
}

/// How much a refusal says.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Detail {
    /// The error code, the reason and a message.
    #[default]
    Reason,
    /// Only the error code.
    Code,
}

/// The keys that may use the HTTP API.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminFile {
    /// Without keys, everything that needs one answers 403.
    pub keys: Vec<AdminKeyFile>,
}

/// The key of one user of the HTTP API.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = Required(&["name", "sha256", "may"]))]
pub struct AdminKeyFile {
    /// The name of the key's owner, as it appears in logs.
    pub name: String,
    /// The SHA-256 of the key in hex, as `doorward hash-key` prints it.
    pub sha256: String,
    /// The key's permissions.
    pub may: Vec<Permission>,
}

/// The permissions of an admin key.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Revoke.
    Revoke,
    /// Register token ids (`revocation.list: allow`).
    Register,
    /// List, explain, introspect.
    Read,
}

/// Logs and traces.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetryFile {
    /// The log, on standard error.
    pub log: LogFile,
    /// Traces.
    pub otlp: OtlpFile,
    /// Tells a webhook when a revoked token is presented; null tells only log and metrics.
    pub replay_alarm: Option<ReplayAlarmFile>,
}

/// The webhook that is notified when a revoked token is presented.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = Required(&["url"]))]
pub struct ReplayAlarmFile {
    /// Where a JSON object is posted to.
    pub url: String,
    /// The bearer token for it; better in a file.
    #[serde(skip_serializing)]
    pub token: Option<String>,
    /// The file that holds the bearer token.
    pub token_file: Option<String>,
    /// The most alarms in a minute, in the log as well; more are counted in the next one.
    #[schemars(range(min = 1, max = 6000))]
    pub per_minute: u32,
    /// Allows plain http to other hosts than this one.
    pub insecure: bool,
}

impl Default for ReplayAlarmFile {
    fn default() -> Self {
        Self { url: String::new(), token: None, token_file: None, per_minute: 60, insecure: false }
    }
}

/// The log.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogFile {
    /// JSON lines, or text for people; `auto` writes text to a terminal and JSON elsewhere.
    pub format: LogFormat,
    /// The least important level that is written.
    pub level: LogLevel,
    /// Which decisions are written.
    pub decisions: LogDecisions,
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

/// Levels of importance.
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

/// Which decisions are logged.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogDecisions {
    /// The refused ones.
    #[default]
    Denied,
    All,
    None,
}

/// Traces over OTLP.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpFile {
    /// The collector's gRPC endpoint, such as `http://otel-collector:4317`; null turns traces off. Which
    /// requests are traced is the proxy's choice (`traceparent`).
    pub endpoint: Option<String>,
}

/// A duration such as `30s`, `5m` or `24h`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema, Serialize)]
#[serde(transparent)]
#[schemars(inline, transform = duration)]
pub struct Span(pub String);

impl Span {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

fn duration(schema: &mut Schema) {
    schema.insert("title".to_owned(), "duration".into());
    schema.insert("examples".to_owned(), serde_json::json!(["30s", "5m", "24h"]));
}

/// Marks keys as required in the schema, although reading goes on without them.
pub(super) struct Required(pub(super) &'static [&'static str]);

impl schemars::transform::Transform for Required {
    fn transform(&mut self, schema: &mut Schema) {
        schema.insert("required".to_owned(), self.0.to_vec().into());
        let properties = schema.get_mut("properties").and_then(serde_json::Value::as_object_mut);
        for (name, property) in properties.into_iter().flatten() {
            if let Some(property) = property.as_object_mut().filter(|_| self.0.contains(&name.as_str())) {
                property.remove("default");
            }
        }
    }
}
