//! The section `issuers`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Required, Span};

/// An issuer whose tokens are accepted.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = Required(&["name", "issuer", "audiences", "keys"]))]
pub struct IssuerFile {
    /// A short name, `[a-z0-9-]+`, used in Redis, metrics and the API.
    pub name: String,
    /// Names under which tokens of this issuer were accepted before: revocations under them apply, and revocations of
    /// this issuer are also written under them, so that instances that were not restarted yet apply them. At most four;
    /// another issuer may have such a name now (an issuer that is split).
    pub formerly: Vec<String>,
    /// Compared exactly with the `iss` of tokens; a list for an issuer with several spellings. `{tenant}` stands
    /// for the tenant that `tid` names.
    pub issuer: OneOrMany,
    /// The tenants that are accepted where `issuer` has a `{tenant}`: a list of tenant ids, or `any`.
    pub tenants: Option<AudiencesFile>,
    /// The `aud` that a token must name: a list, or `any`.
    pub audiences: AudiencesFile,
    /// The source of the keys.
    pub keys: KeysFile,
    /// The allowed `alg`; by default all asymmetric ones, with `secret_file` HS256. Never `none`.
    pub algorithms: Option<Vec<String>>,
    /// The allowed `typ`, case-insensitive, `application/` dropped; a token without one is a `JWT`.
    pub token_types: Vec<String>,
    /// The kinds of tokens that are accepted, by their mark in `token_use`, `typ` and other claims of that kind; a
    /// token without a mark counts as an access token.
    pub accept: Vec<Accepted>,
    /// The clock skew allowed on exp, nbf and iat.
    pub leeway: Span,
    /// The longest time between iat and exp, and between now and exp (plus leeway).
    pub max_lifetime: Span,
    /// Whether a token must have a claim of `claims.user_id`.
    pub subject: Subject,
    /// The names of the claims that Doorward reads.
    pub claims: ClaimsFile,
    /// OpenID Connect Back-Channel Logout; without it logout tokens may name the `audiences`.
    pub backchannel_logout: Option<BackchannelLogoutFile>,
    /// Introspects tokens at the issuer (RFC 7662); off by default.
    pub introspection: Option<IntrospectionFile>,
    /// Whether the sender of a token must prove possession of the key or certificate in `cnf`.
    pub proof: ProofFile,
    /// The settings for DPoP proofs (RFC 9449).
    pub dpop: DpopFile,
}

impl Default for IssuerFile {
    fn default() -> Self {
        Self {
            name: String::new(),
            formerly: Vec::new(),
            issuer: OneOrMany::One(String::new()),
            tenants: None,
            audiences: AudiencesFile::OneOf(Vec::new()),
            keys: KeysFile::default(),
            algorithms: None,
            token_types: vec!["at+jwt".to_owned(), "JWT".to_owned()],
            accept: vec![Accepted::Access],
            leeway: Span::new("30s"),
            max_lifetime: Span::new("24h"),
            subject: Subject::default(),
            claims: ClaimsFile::default(),
            backchannel_logout: None,
            introspection: None,
            proof: ProofFile::default(),
            dpop: DpopFile::default(),
        }
    }
}

/// Whether the sender of a token must prove its possession.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofFile {
    /// Bound tokens must be proved; others are accepted as bearer tokens.
    #[default]
    Verify,
    /// Bound tokens must be proved; others are refused.
    Required,
    /// Proofs are ignored: every upstream checks them itself.
    Ignore,
}

/// The settings for DPoP proofs (RFC 9449).
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct DpopFile {
    /// The largest distance of a proof's creation from now, in either direction.
    pub window: Span,
    /// True: a proof must have a nonce that Doorward has sent in `DPoP-Nonce`, which then dates the proof; the clocks
    /// of clients do not matter.
    pub nonce: bool,
    /// The place where used proofs are recorded.
    pub replay: ReplayFile,
    /// With `replay: shared`, the treatment of proofs while the store cannot be reached.
    pub on_store_down: OnStoreDown,
}

impl Default for DpopFile {
    fn default() -> Self {
        Self {
            window: Span::new("60s"),
            nonce: false,
            replay: ReplayFile::default(),
            on_store_down: OnStoreDown::default(),
        }
    }
}

/// The place where used proofs are recorded.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayFile {
    /// In the store: one round trip for each request with a proof, and no instance accepts it twice.
    #[default]
    Shared,
    /// In this process: another instance, or this one after a restart, accepts a proof once more.
    Local,
}

/// The treatment of requests with a proof while the store cannot be reached.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStoreDown {
    /// They are refused with 503.
    #[default]
    Deny,
    /// As with `replay: local`.
    Local,
}

/// Whether tokens must name a user.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A token without a user is refused.
    #[default]
    Required,
    /// A token without a user is accepted, such as one of client credentials; no `user` revocation applies to it.
    Optional,
}

/// A kind of token that is accepted.
#[derive(Clone, Copy, Debug, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Accepted {
    /// Access tokens, and tokens without a mark of their kind.
    Access,
    /// Tokens that are marked as ID tokens.
    Id,
}

/// `any`, or a list.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum AudiencesFile {
    /// `any`: none is refused.
    Word(String),
    /// One of these.
    OneOf(Vec<String>),
}

/// The source of an issuer's keys: exactly one of `jwks_url`, `discovery`, `jwks_file`, `jwks` and `secret_file`.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeysFile {
    /// A JWKS at this URL.
    #[schemars(example = "https://auth.example.com/jwks")]
    pub jwks_url: Option<String>,
    /// True: the JWKS that the issuer's discovery document names.
    pub discovery: bool,
    /// A JWKS in this file, read again when it changes.
    pub jwks_file: Option<String>,
    /// A JWKS written here.
    #[serde(skip_serializing)]
    #[schemars(with = "Option<serde_json::Map<String, Value>>")]
    pub jwks: Option<Value>,
    /// A shared secret for HS256, HS384 or HS512, in this file.
    pub secret_file: Option<String>,
    /// Allows plain http to other hosts than this one.
    pub insecure: bool,
    /// The interval of fetching keys; shorter if the provider's Cache-Control requires it.
    pub refresh: Span,
    /// The shortest time between two fetches because of unknown keys.
    pub cooldown: Span,
    /// The time for which keys are used while the provider cannot be reached.
    pub max_stale: Span,
    /// The timeout of one fetch, body included.
    pub timeout: Span,
    /// The CA that signed the certificate of the server of `jwks_url` or `discovery`, PEM; by default those of the system.
    pub ca_file: Option<String>,
}

impl Default for KeysFile {
    fn default() -> Self {
        Self {
            jwks_url: None,
            discovery: false,
            jwks_file: None,
            jwks: None,
            secret_file: None,
            insecure: false,
            refresh: Span::new("5m"),
            cooldown: Span::new("30s"),
            max_stale: Span::new("24h"),
            timeout: Span::new("5s"),
            ca_file: None,
        }
    }
}

/// The places of claims: names, or JSON pointers that begin with `/`; of a list, the first that is present.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClaimsFile {
    /// The user, whom `user` revocations name.
    pub user_id: OneOrMany,
    /// The user's address.
    pub email: OneOrMany,
    /// The session, which `session` revocations name.
    pub session_id: OneOrMany,
    /// The client, which `client` revocations name.
    pub client_id: OneOrMany,
    /// The audiences, which must be among `audiences`; an empty list counts as absent.
    pub audience: OneOrMany,
}

impl Default for ClaimsFile {
    fn default() -> Self {
        let one = |name: &str| OneOrMany::One(name.to_owned());
        let many = |names: &[&str]| OneOrMany::Many(names.iter().map(|name| (*name).to_owned()).collect());
        Self {
            user_id: one("sub"),
            email: one("email"),
            session_id: many(&["sid", "session_id", "origin_jti"]),
            client_id: many(&["azp", "client_id", "cid", "appid"]),
            audience: one("aud"),
        }
    }
}

/// A text, or a list of them.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// OpenID Connect Back-Channel Logout 1.0.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackchannelLogoutFile {
    /// The client ids that logout tokens may name; without it the `audiences`.
    pub audiences: Option<Vec<String>>,
    /// Whom a logout token signs out.
    pub scope: LogoutScope,
}

/// Whom a logout token signs out.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogoutScope {
    /// The session that it names, else the user.
    #[default]
    Session,
    /// The user everywhere, if it names one: for issuers whose access tokens name no session.
    User,
}

/// RFC 7662.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
#[schemars(transform = Required(&["url", "client_id"]))]
pub struct IntrospectionFile {
    /// The endpoint.
    pub url: String,
    /// Doorward's client id there.
    pub client_id: String,
    /// Its secret; better in a file.
    #[serde(skip_serializing)]
    pub client_secret: Option<String>,
    /// The file with its secret.
    pub client_secret_file: Option<String>,
    /// The time for which an answer is used; never beyond the token's expiry or a revocation.
    pub cache: Span,
    /// The timeout of one request.
    pub timeout: Span,
    /// The tokens that are introspected.
    pub when: When,
    /// Allows plain http to other hosts than this one.
    pub insecure: bool,
    /// The CA that signed the certificate of the endpoint, PEM; by default those of the system.
    pub ca_file: Option<String>,
}

impl Default for IntrospectionFile {
    fn default() -> Self {
        Self {
            url: String::new(),
            client_id: String::new(),
            client_secret: None,
            client_secret_file: None,
            cache: Span::new("10s"),
            timeout: Span::new("1s"),
            when: When::default(),
            insecure: false,
            ca_file: None,
        }
    }
}

/// The tokens that an issuer introspects.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// Tokens that are not JWTs.
    #[default]
    Opaque,
    /// Every token.
    Always,
}
