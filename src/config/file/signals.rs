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
        /// Obtains the tokens for the transmitter's API (`stream` and `poll`) by the client credentials grant (RFC 6749
        /// section 4.4); null: their fixed tokens.
        pub client_credentials: Option<ClientCredentialsFile> = None,
        /// Sets the stream up and keeps it verified; null leaves that to the operator.
        pub stream: Option<StreamFile> = None,
        #[doc = text!(ca_file of "the transmitter (`poll`, `stream` and, without `keys.ca_file`, `keys`)")]
        pub ca_file: Option<String> = None,
        /// The accepted subject formats. `email` names a user by the email address in the tokens, `scim` by the
        /// id or the `externalId` of a SCIM resource.
        pub subjects: Vec<SubjectFormat> =
            vec![SubjectFormat::IssSub, SubjectFormat::Opaque, SubjectFormat::Email, SubjectFormat::Scim],
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
    /// The client credentials grant: a token is kept, and replaced before its end or when it is refused.
    #[schemars(transform = Required(&["client_id"]))]
    pub struct ClientCredentialsFile {
        /// The token endpoint; null: that of the metadata of `authorization_server`.
        #[schemars(example = "https://idp.example.com/oauth2/token", extend("x-shown" = "url"))]
        pub token_url: Option<String> = None,
        /// The issuer whose metadata (RFC 8414, or OpenID Connect Discovery) names the token endpoint; null: that of the
        /// transmitter.
        #[schemars(extend("x-shown" = "location"))]
        pub authorization_server: Option<String> = None,
        /// The id under which Doorward is registered there.
        #[schemars(extend("x-shown" = "text"))]
        pub client_id: String = String::new(),
        /// Its secret; better in a file.
        #[serde(skip_serializing)]
        pub client_secret: Option<String> = None,
        /// The file with the secret.
        #[schemars(extend("x-shown" = "secret_file"))]
        pub client_secret_file: Option<String> = None,
        /// How the secret is sent: in the `Authorization` header, or in the body.
        pub auth_method: ClientAuthFile = ClientAuthFile::ClientSecretBasic,
        /// The scopes that are requested; empty: the server's default.
        #[schemars(extend("x-shown" = "text"))]
        pub scopes: Vec<String> = Vec::new(),
        /// The parameter `audience` of the request, for servers that need it.
        #[schemars(extend("x-shown" = "text"))]
        pub audience: Option<String> = None,
        #[doc = text!(insecure)]
        pub insecure: bool = false,
    }
}

/// Client authentication methods (RFC 7591 section 2).
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientAuthFile {
    ClientSecretBasic,
    ClientSecretPost,
}

section! {
    /// Setting a stream up by the transmitter's `/.well-known/ssf-configuration` (SSF 1.0 section 8).
    pub struct StreamFile {
        /// The URL of `/signals/events` of this service for the transmitter; needed unless `poll` is set.
        #[schemars(example = "https://doorward.example.com/signals/events", extend("x-shown" = "url"))]
        pub push_url: Option<String> = None,
        /// The bearer token for the transmitter's management API, instead of `client_credentials`; better in a file.
        #[serde(skip_serializing)]
        pub token: Option<String> = None,
        /// The file with the bearer token.
        #[schemars(extend("x-shown" = "secret_file"))]
        pub token_file: Option<String> = None,
        /// The interval of requesting a verification event and checking the stream's status.
        #[schemars(transform = Within("1m", "30d"))]
        pub verify: Span = Span::seconds(3600),
        /// The time within which a requested verification event must arrive; the stream then counts as silent.
        #[schemars(transform = Within("1s", "1d"))]
        pub silent_after: Span = Span::seconds(300),
        #[doc = text!(insecure)]
        pub insecure: bool = false,
    }
}

section! {
    /// Polling for events.
    pub struct PollFile {
        /// The poll endpoint; with `stream` the transmitter returns it.
        #[schemars(extend("x-shown" = "url"))]
        pub url: Option<String> = None,
        /// The bearer token for the poll endpoint, by default that of `stream` or of `client_credentials`; better in a file.
        #[serde(skip_serializing)]
        pub token: Option<String> = None,
        /// The file with the bearer token.
        #[schemars(extend("x-shown" = "secret_file"))]
        pub token_file: Option<String> = None,
        /// The pause between two empty polls.
        #[schemars(transform = Within("1s", "1h"))]
        pub interval: Span = Span::seconds(10),
        #[doc = text!(insecure)]
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
    /// RFC 9967 section 2.1.
    Scim,
}
