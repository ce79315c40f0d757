//! The section `signals`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{KeysFile, Required, Span, Within};

/// A receiver for OpenID Shared Signals (SSF, CAEP, RISC).
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignalsFile {
    /// The transmitters whose events are accepted.
    pub transmitters: Vec<TransmitterFile>,
}

section! {
    /// A transmitter whose security event tokens are applied.
    #[schemars(transform = Required(&["issuer", "audience", "keys", "target_issuer"]))]
    pub struct TransmitterFile {
        /// The identifier of the transmitter, which the `iss` of an event token must equal exactly.
        #[schemars(extend("x-shown" = "location"))]
        pub issuer: String = String::new(),
        /// The `aud` that event tokens must name.
        #[schemars(extend("x-shown" = "text"))]
        pub audience: String = String::new(),
        /// The source of the transmitter's keys; not `secret_file`.
        pub keys: KeysFile = KeysFile::default(),
        /// The name of the issuer whose tokens the events revoke.
        #[schemars(extend("x-shown" = "text"))]
        pub target_issuer: String = String::new(),
        /// Polls for events (RFC 8936); null: the transmitter pushes events (RFC 8935) to `/signals/events`.
        pub poll: Option<PollFile> = None,
        /// The `Authorization` header that pushed events must carry; null requires only a valid signature.
        pub push: Option<PushFile> = None,
        /// Sets the stream up and keeps it verified; null leaves that to the operator.
        pub stream: Option<StreamFile> = None,
        /// The CA that signed the certificate of the transmitter, PEM, for `poll`, `stream` and, unless `keys.ca_file`
        /// is set, `keys`; by default the CAs of the system.
        pub ca_file: Option<String> = None,
        /// The accepted subject formats.
        pub subjects: Vec<SubjectFormat> = vec![SubjectFormat::IssSub, SubjectFormat::Opaque],
    }
}

/// The credential that pushed events carry.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PushFile {
    /// The bearer token that the transmitter sends; better in a file.
    #[serde(skip_serializing)]
    pub token: Option<String>,
    /// The file with the bearer token.
    #[schemars(extend("x-shown" = "secret_file"))]
    pub token_file: Option<String>,
}

section! {
    /// Setting a stream up by the transmitter's `/.well-known/ssf-configuration` (SSF 1.0 section 8).
    pub struct StreamFile {
        /// The URL of `/signals/events` of this service for the transmitter; needed unless `poll` is set.
        #[schemars(example = "https://doorward.example.com/signals/events", extend("x-shown" = "url"))]
        pub push_url: Option<String> = None,
        /// The bearer token for the transmitter's management API; better in a file.
        #[serde(skip_serializing)]
        pub token: Option<String> = None,
        /// The file with the bearer token.
        #[schemars(extend("x-shown" = "secret_file"))]
        pub token_file: Option<String> = None,
        /// The interval of requesting a verification event and checking the stream's status.
        #[schemars(transform = Within("1m", "30d"))]
        pub verify: Span = Span::seconds(3600),
        /// Allows plain HTTP to hosts other than loopback.
        pub insecure: bool = false,
    }
}

section! {
    /// Polling for events.
    pub struct PollFile {
        /// The poll endpoint; with `stream` the transmitter returns it.
        #[schemars(extend("x-shown" = "url"))]
        pub url: Option<String> = None,
        /// The bearer token for the poll endpoint; better in a file.
        #[serde(skip_serializing)]
        pub token: Option<String> = None,
        /// The file with the bearer token.
        #[schemars(extend("x-shown" = "secret_file"))]
        pub token_file: Option<String> = None,
        /// The pause between two empty polls.
        #[schemars(transform = Within("1s", "1h"))]
        pub interval: Span = Span::seconds(10),
        /// Allows plain HTTP to hosts other than loopback.
        pub insecure: bool = false,
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
