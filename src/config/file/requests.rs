//! The sections `rules` and `api_keys`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{OnStaleFile, OneOrMany, Required, Span};

/// A policy, and the requests it applies to.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = Required(&["name"]))]
pub struct RuleFile {
    /// `[a-z0-9-]+`; stands in metrics, logs and metadata.
    pub name: String,
    /// The requests it is for; without it, only those whose route names the rule.
    #[serde(rename = "match")]
    pub matches: Option<MatchFile>,
    /// The access that the rule grants.
    pub access: AccessFile,
    /// With `access: optional`, what becomes of a request whose token is refused.
    pub bad_token: Option<BadToken>,
    /// The effect of `access: sign_out`.
    pub sign_out: Option<SignOutFile>,
    /// Further requirements that a token must meet.
    pub require: Option<RequireFile>,
    /// Overrides `api_keys.default`.
    pub api_key: Option<ApiKeyUseFile>,
    /// Overrides `revocation.on_stale`.
    pub on_stale: Option<OnStaleFile>,
    /// Overrides `revocation.max_staleness`.
    pub max_staleness: Option<Span>,
    /// The end of open streams whose token is no longer accepted, where Envoy's `ext_proc` filter is configured.
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
    /// Messages of the Model Context Protocol, as Envoy's MCP filter reads them. A request that fits the rest and is
    /// not known to carry one message is refused.
    pub mcp: Option<McpMatchFile>,
}

/// Which MCP messages: all that is written must fit.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct McpMatchFile {
    /// JSON-RPC methods such as `tools/call`; `*` stands for any characters. With `tools`, `tools/call` alone.
    pub methods: Option<Vec<String>>,
    /// Names of tools such as `transfer_*`; `*` stands for any characters.
    pub tools: Option<Vec<String>>,
}

/// The access that the rule grants.
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

/// The treatment of a refused token on a rule that requires none.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BadToken {
    /// It is refused.
    #[default]
    Refuse,
    /// It passes as a request without a token, and the upstream does not see the token.
    Anonymous,
}

/// The treatment of open streams.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamsFile {
    /// It ends.
    #[default]
    End,
    /// It goes on until its client or its server ends it.
    Keep,
}

/// The effect of a sign-out.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SignOutFile {
    /// The target that is revoked.
    pub scope: SignOutScope,
    /// The response after the sign-out is recorded.
    pub then: ThenFile,
}

/// The target that a sign-out revokes.
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

/// The response after a sign-out.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ThenFile {
    /// The request goes on to the auth service.
    #[default]
    Forward,
    /// Doorward answers 204.
    Respond,
}

/// Further requirements that a token must meet.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct RequireFile {
    /// All of these scopes.
    pub scopes: Option<Vec<String>>,
    /// By name or JSON pointer: the value, or a list of which one must fit.
    pub claims: Option<BTreeMap<String, Value>>,
    /// The token's issuer is one of these names.
    pub issuers: Option<Vec<String>>,
    /// The token's audience is one of these (RFC 8707), which its issuer's `audiences` accept, too.
    pub audience: Option<Vec<String>>,
    /// The current actor (`act`, RFC 8693) is one of these: who acts for the user.
    pub actors: Option<Vec<String>>,
    /// True: somebody must act for the user; false: nobody may.
    pub delegated: Option<bool>,
    /// The longest time since the user actively signed in (`auth_time`).
    pub max_age: Option<Span>,
    /// The token's `acr` is one of these authentication context classes.
    pub acr: Option<OneOrMany>,
}

/// Which client is calling.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ApiKeysFile {
    /// Where the key stands.
    pub header: String,
    /// The default for rules without `api_key`.
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

/// The treatment of API keys.
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
