//! The section `signals`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KeysFile, Required, Span};

/// A receiver for OpenID Shared Signals (SSF, CAEP, RISC).
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignalsFile {
    /// The transmitters whose events are accepted.
    pub transmitters: Vec<TransmitterFile>,
}

/// Someone whose security event tokens are applied.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = Required(&["issuer", "audience", "keys", "target_issuer"]))]
pub struct TransmitterFile {
    /// Compared exactly with the `iss` of event tokens.
    pub issuer: String,
    /// Which `aud` they must name.
    pub audience: String,
    /// Where their keys come from; not `secret_file`.
    pub keys: KeysFile,
    /// The name of the issuer whose tokens the events revoke.
    pub target_issuer: String,
    /// Fetches events (RFC 8936); without it they are pushed (RFC 8935) to `/signals/events`.
    pub poll: Option<PollFile>,
    /// The `Authorization` header that pushed events must carry; null requires only a valid signature.
    pub push: Option<PushFile>,
    /// Sets the stream up and keeps it verified; null leaves that to the operator.
    pub stream: Option<StreamFile>,
    /// The CA that signed the certificate of the transmitter, PEM, for `poll`, `stream` and, unless `keys.ca_file`
    /// is set, `keys`; by default those of the system.
    pub ca_file: Option<String>,
    /// The subject formats that are understood.
    pub subjects: Vec<SubjectFormat>,
}

impl Default for TransmitterFile {
    fn default() -> Self {
        Self {
            issuer: String::new(),
            audience: String::new(),
            keys: KeysFile::default(),
            target_issuer: String::new(),
            poll: None,
            push: None,
            stream: None,
            ca_file: None,
            subjects: vec![SubjectFormat::IssSub, SubjectFormat::Opaque],
        }
    }
}

/// The credential that pushed events carry.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PushFile {
    /// The bearer token that it sends; better in a file.
    #[serde(skip_serializing)]
    pub token: Option<String>,
    /// The file with the bearer token.
    pub token_file: Option<String>,
}

/// Setting a stream up by the transmitter's `/.well-known/ssf-configuration` (SSF 1.0 section 8).
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamFile {
    /// The URL of `/signals/events` of this service for the transmitter; needed unless `poll` is set.
    #[schemars(example = "https://doorward.example.com/signals/events")]
    pub push_url: Option<String>,
    /// The bearer token for the transmitter's management API; better in a file.
    #[serde(skip_serializing)]
    pub token: Option<String>,
    /// The file with the bearer token.
    pub token_file: Option<String>,
    /// The interval of requesting a verification event and checking the stream's status.
    pub verify: Span,
    /// Allows plain http to other hosts than this one.
    pub insecure: bool,
}

impl Default for StreamFile {
    fn default() -> Self {
        Self { push_url: None, token: None, token_file: None, verify: Span::new("1h"), insecure: false }
    }
}

/// Polling for events.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PollFile {
    /// The poll endpoint; with `stream` the transmitter returns it.
    pub url: Option<String>,
    /// The bearer token for it; better in a file.
    #[serde(skip_serializing)]
    pub token: Option<String>,
    /// The file with the bearer token.
    pub token_file: Option<String>,
    /// The pause between two empty polls.
    pub interval: Span,
    /// Allows plain http to other hosts than this one.
    pub insecure: bool,
}

impl Default for PollFile {
    fn default() -> Self {
        Self { url: None, token: None, token_file: None, interval: Span::new("10s"), insecure: false }
    }
}

/// Subject identifiers (RFC 9493).
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SubjectFormat {
    IssSub,
    Opaque,
    Email,
}
