//! The sections `rules` and `api_keys`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{OnStaleFile, OneOrMany, Required, Span};

/// One policy, and the requests it is for.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = Required(&["name"]))]
pub struct RuleFile {
    /// `[a-z0-9-]+`; stands in metrics, logs and metadata.
    pub name: String,
    /// The requests it is for; without it, only those whose route names the rule.
    #[serde(rename = "match")]
    pub matches: Option<MatchFile>,
    /// Who may pass.
    pub access: AccessFile,
    /// With `access: optional`, what becomes of a request whose token is refused.
    pub bad_token: Option<BadToken>,
    /// What `access: sign_out` does.
    pub sign_out: Option<SignOutFile>,
    /// What a token must also show.
    pub require: Option<RequireFile>,
    /// Overrides `api_keys.default`.
    pub api_key: Option<ApiKeyUseFile>,
    /// Overrides `revocation.on_stale`.
    pub on_stale: Option<OnStaleFile>,
    /// Overrides `revocation.max_staleness`.
    pub max_staleness: Option<Span>,
    /// What becomes of an open stream when its token is not accepted any more, where Envoy asks for it (`ext_proc`).
    pub streams: StreamsFile,
    /// False: a shadow; always allowed, the would-be refusal is counted and logged.
    pub enforce: bool,
}

impl Default for RuleFile {
    fn default() -> Self {
        Self {
            name: String::new(),
            matches: None,
            access: AccessFile::default(),
            bad_token: None,
            sign_out: None,
            require: None,
            api_key: None,
            on_stale: None,
            max_staleness: None,
            streams: StreamsFile::default(),
            enforce: true,
        }
    }
}

/// Which requests: all that is written must fit; at most one of `path`, `path_prefix` and `path_regex`.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MatchFile {
    /// Exactly this path, without the query.
    #[schemars(example = "/healthz")]
    pub path: Option<String>,
    /// This path and all below it, by whole segments.
    #[schemars(example = "/admin")]
    pub path_prefix: Option<String>,
    /// A regular expression for the whole path.
    pub path_regex: Option<String>,
    /// Host names, or `*.` and the name whose subdomains are meant.
    pub hosts: Option<Vec<String>>,
    /// HTTP methods.
    pub methods: Option<Vec<String>>,
}

/// Who may pass.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessFile {
    /// Anyone; the token is not looked at.
    Public,
    /// Anyone; a token that is there must be good.
    Optional,
    /// Only a good token that is not revoked.
    #[default]
    Protected,
    /// As protected, but an expired or revoked token passes, and so does none.
    Refresh,
    /// The token is revoked.
    SignOut,
}

/// What becomes of a request whose token is refused, where none is needed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BadToken {
    /// It is refused.
    #[default]
    Refuse,
    /// It passes as a request without a token, and the upstream does not see the token.
    Anonymous,
}

/// What becomes of an open stream.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamsFile {
    /// It ends.
    #[default]
    End,
    /// It goes on until its client or its server ends it.
    Keep,
}

/// What a sign-out does.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignOutFile {
    /// What is revoked.
    pub scope: SignOutScope,
    /// What follows.
    pub then: ThenFile,
}

/// What a sign-out revokes.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SignOutScope {
    /// This token.
    #[default]
    Token,
    /// All tokens of its session.
    Session,
    /// All tokens of its user up to now.
    User,
}

/// What follows a sign-out.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ThenFile {
    /// The request goes on to the auth service.
    #[default]
    Forward,
    /// Doorward answers 204.
    Respond,
}

/// What a token must also show.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RequireFile {
    /// All of these scopes.
    pub scopes: Option<Vec<String>>,
    /// By name or JSON pointer: the value, or a list of which one must fit.
    pub claims: Option<BTreeMap<String, Value>>,
    /// One of these issuers, by name.
    pub issuers: Option<Vec<String>>,
    /// The longest time since the user actively signed in (`auth_time`).
    pub max_age: Option<Span>,
    /// One of these authentication context classes.
    pub acr: Option<OneOrMany>,
}

/// Which client is calling.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiKeysFile {
    /// Where the key stands.
    pub header: String,
    /// What a rule without `api_key` does.
    pub default: ApiKeyUseFile,
    /// Where the client's platform stands.
    pub platform_header: String,
    /// The keys.
    pub keys: Vec<ApiKeyFile>,
}

impl Default for ApiKeysFile {
    fn default() -> Self {
        Self {
            header: "x-api-key".to_owned(),
            default: ApiKeyUseFile::default(),
            platform_header: "x-client-platform".to_owned(),
            keys: Vec::new(),
        }
    }
}

/// What is done with API keys.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiKeyUseFile {
    /// A request without a good key is refused.
    Required,
    /// A key that is there must be good.
    Optional,
    /// Keys are not looked at.
    #[default]
    Ignored,
}

/// The key of one client.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = Required(&["id", "sha256"]))]
pub struct ApiKeyFile {
    /// The client's name, shown to the upstream.
    pub id: String,
    /// The SHA-256 of the key in hex, as `doorward hash-key` prints it.
    pub sha256: String,
    /// The platforms it may be used from; without it, any.
    pub platforms: Option<Vec<String>>,
    /// The sites it may be used from (`shop.example.com`, `*.shop.example.com`); without it, any.
    pub domains: Option<Vec<String>>,
    /// When it ends (RFC 3339).
    #[schemars(example = "2027-06-01T00:00:00Z")]
    pub expires: Option<String>,
}
