//! The sections `rules` and `api_keys`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Digest, OnStaleFile, OneOrMany, Required, Span, Within};
use crate::authz::revocation::LONGEST_STALENESS;

section! {
    /// A policy, and the requests to which it applies.
    #[schemars(transform = Required(&["name"]))]
    pub struct RuleFile {
        /// The name of the rule, `[a-z0-9-]+`, as it appears in metrics, logs and metadata.
        #[schemars(extend("x-shown" = "text"))]
        pub name: String = String::new(),
        /// The requests of the rule; without it, only those whose route names the rule.
        #[serde(rename = "match")]
        pub matches: Option<MatchFile> = None,
        /// The access that the rule grants.
        pub access: AccessFile = AccessFile::default(),
        /// With `access: optional`, the treatment of a request whose token is refused.
        pub bad_token: Option<BadToken> = None,
        /// The effect of `access: sign_out`.
        pub sign_out: Option<SignOutFile> = None,
        /// Further requirements that a token must meet.
        pub require: Option<RequireFile> = None,
        /// Overrides `api_keys.default`.
        pub api_key: Option<ApiKeyUseFile> = None,
        /// Overrides `revocation.on_stale`.
        pub on_stale: Option<OnStaleFile> = None,
        /// Overrides `revocation.max_staleness`.
        #[schemars(transform = Within("1s", LONGEST_STALENESS))]
        pub max_staleness: Option<Span> = None,
        /// The treatment of open streams whose token is no longer accepted, if Envoy's `ext_proc` filter is configured.
        pub streams: StreamsFile = StreamsFile::default(),
        /// False makes it a shadow rule: its requests are always allowed, and refusals are only counted and logged.
        pub enforce: bool = true,
    }
}

/// The requests of a rule: all conditions must match; at most one of `path`, `path_prefix` and `path_regex`.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MatchFile {
    /// Exactly this path, without the query.
    #[schemars(example = "/healthz", regex(pattern = "^/"), extend("x-shown" = "text"))]
    pub path: Option<String>,
    /// This path and all below it, by whole segments.
    #[schemars(example = "/admin", regex(pattern = "^/"), extend("x-shown" = "text"))]
    pub path_prefix: Option<String>,
    /// A regular expression for the whole path.
    #[schemars(extend("x-shown" = "text"))]
    pub path_regex: Option<String>,
    /// Host names, or `*.` and a name for its subdomains.
    #[schemars(extend("x-shown" = "text"))]
    pub hosts: Option<Vec<String>>,
    /// HTTP methods.
    #[schemars(inner(regex(pattern = "^[A-Z-]+$")), extend("x-shown" = "text"))]
    pub methods: Option<Vec<String>>,
    /// Messages of the Model Context Protocol, as Envoy's MCP filter reads them. A request that matches the other
    /// conditions, but is not known to carry exactly one message, is refused.
    pub mcp: Option<McpMatchFile>,
}

/// The MCP messages of a rule: all conditions must match.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct McpMatchFile {
    /// JSON-RPC methods such as `tools/call`; `*` stands for any characters. With `tools`, only `tools/call` is
    /// possible.
    #[schemars(extend("x-shown" = "text"))]
    pub methods: Option<Vec<String>>,
    /// Names of tools such as `transfer_*`; `*` stands for any characters.
    #[schemars(extend("x-shown" = "text"))]
    pub tools: Option<Vec<String>>,
}

/// The access that the rule grants.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessFile {
    /// Every request; the token is not checked.
    Public,
    /// Every request; a token, if present, must be valid.
    Optional,
    /// Only a valid token that is not revoked.
    #[default]
    Protected,
    /// As protected, but an expired, revoked or missing token is accepted.
    Refresh,
    /// The token is revoked.
    SignOut,
}

/// The treatment of a refused token on a rule that does not require one.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BadToken {
    /// The request is refused.
    #[default]
    Refuse,
    /// The request is handled as one without a token, and the upstream does not see the token.
    Anonymous,
}

/// The treatment of open streams.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamsFile {
    /// The stream ends.
    #[default]
    End,
    /// The stream stays open until its client or its server ends it.
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
    /// The token has all of these scopes.
    #[schemars(extend("x-shown" = "text"))]
    pub scopes: Option<Vec<String>>,
    /// Required claims, by name or JSON pointer: the value, or a list of alternatives.
    #[schemars(extend("x-shown" = "text"))]
    pub claims: Option<BTreeMap<String, Value>>,
    /// The token's issuer is one of these names.
    #[schemars(extend("x-shown" = "text"))]
    pub issuers: Option<Vec<String>>,
    /// The token's audience is one of these (RFC 8707); its issuer's `audiences` must accept it, too.
    #[schemars(extend("x-shown" = "text"))]
    pub audience: Option<Vec<String>>,
    /// The current actor (`act`, RFC 8693), which acts for the user, is one of these; `act` has no `iss`, or the token's.
    pub actors: Option<Vec<String>>,
    /// True: an actor must act for the user; false: no actor may.
    pub delegated: Option<bool>,
    /// The longest time since the user actively signed in (`auth_time`).
    #[schemars(transform = Within("1s", "400d"))]
    pub max_age: Option<Span>,
    /// The token's `acr` is one of these authentication context classes.
    #[schemars(extend("x-shown" = "text"))]
    pub acr: Option<OneOrMany>,
}

section! {
    /// API keys, which identify clients.
    pub struct ApiKeysFile {
        /// The header with the key.
        #[schemars(extend("x-shown" = "text"))]
        pub header: String = "x-api-key".to_owned(),
        /// The default for rules without `api_key`.
        pub default: ApiKeyUseFile = ApiKeyUseFile::default(),
        /// The header with the client's platform.
        #[schemars(extend("x-shown" = "text"))]
        pub platform_header: String = "x-client-platform".to_owned(),
        /// The API keys.
        pub keys: Vec<ApiKeyFile> = Vec::new(),
    }
}

/// The treatment of API keys.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiKeyUseFile {
    /// A request without a valid key is refused.
    Required,
    /// A key, if present, must be valid.
    Optional,
    /// Keys are ignored.
    #[default]
    Ignored,
}

/// The key of one client.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = Required(&["id", "sha256"]))]
pub struct ApiKeyFile {
    /// The client's name, which is sent to the upstream.
    pub id: String,
    /// The SHA-256 of the key in hex, as `doorward hash-key` prints it.
    pub sha256: Digest,
    /// The platforms from which the key may be used; by default any.
    #[schemars(extend("x-shown" = "text"))]
    pub platforms: Option<Vec<String>>,
    /// The sites from which the key may be used (`shop.example.com`, `*.shop.example.com`); by default any.
    #[schemars(extend("x-shown" = "text"))]
    pub domains: Option<Vec<String>>,
    /// The time at which the key expires (RFC 3339).
    #[schemars(example = "2027-06-01T00:00:00Z", extend("x-shown" = "text"))]
    pub expires: Option<String>,
}
