//! The section `issuers`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Required, Span, Within};
use crate::authz::revocation::{LONGEST_LEEWAY, LONGEST_LIFETIME};

section! {
    /// An issuer whose tokens are accepted.
    #[schemars(transform = Required(&["name", "issuer", "audiences", "keys"]))]
    pub struct IssuerFile {
        /// A short name, `[a-z0-9-]+`, used in Redis, metrics and the API.
        #[schemars(extend("x-shown" = "text"))]
        pub name: String = String::new(),
        /// Former names of this issuer, at most four. Revocations under a former name still apply, and revocations of
        /// this issuer are also written under it, so that instances that have not restarted yet apply them. Another
        /// issuer may have a former name now (when an issuer is split).
        pub formerly: Vec<String> = Vec::new(),
        /// The identifier of the issuer, which the `iss` of a token must equal exactly; a list for an issuer with
        /// several spellings. `{tenant}` stands for the tenant that `tid` names.
        #[schemars(extend("x-shown" = "location"))]
        pub issuer: OneOrMany = OneOrMany::One(String::new()),
        /// The accepted tenants if `issuer` has a `{tenant}`: a list of tenant ids, or `any`.
        pub tenants: Option<AudiencesFile> = None,
        /// The `aud` that a token must name: a list, or `any`.
        #[schemars(extend("x-shown" = "text"))]
        pub audiences: AudiencesFile = AudiencesFile::OneOf(Vec::new()),
        /// The source of the keys.
        pub keys: KeysFile = KeysFile::default(),
        /// The allowed values of `alg`; by default all asymmetric algorithms, or HS256 with `secret_file`. Never
        /// `none`.
        #[schemars(extend("x-shown" = "text"))]
        pub algorithms: Option<Vec<String>> = None,
        /// The allowed values of `typ`, compared without case and `application/`; a token without `typ` is a `JWT`.
        #[schemars(extend("x-shown" = "text"))]
        pub token_types: Vec<String> = vec!["at+jwt".to_owned(), "JWT".to_owned()],
        /// The accepted kinds of tokens. `token_use`, `typ` and similar claims mark the kind; a token without a mark
        /// counts as an access token.
        pub accept: Vec<Accepted> = vec![Accepted::Access],
        /// The clock skew allowed on exp, nbf and iat.
        #[schemars(transform = Within("0s", LONGEST_LEEWAY))]
        pub leeway: Span = Span::seconds(30),
        /// The longest time between iat and exp, and between now and exp (plus leeway).
        #[schemars(transform = Within("1s", LONGEST_LIFETIME))]
        pub max_lifetime: Span = Span::seconds(86_400),
        /// Whether a token must have a claim of `claims.user_id`.
        pub subject: Subject = Subject::default(),
        /// The names of the claims that Doorward reads.
        pub claims: ClaimsFile = ClaimsFile::default(),
        /// The settings of OpenID Connect Back-Channel Logout; without them, logout tokens may name the `audiences`.
        pub backchannel_logout: Option<BackchannelLogoutFile> = None,
        /// Introspects tokens at the issuer (RFC 7662); off by default.
        pub introspection: Option<IntrospectionFile> = None,
        /// Reads the status of tokens in the lists that the issuer publishes (Token Status List); off by default.
        pub status_list: Option<StatusListFile> = None,
        /// Publishes a list of this issuer's tokens that are revoked here, for verifiers that do not ask Doorward; off by
        /// default.
        pub publish_status_list: Option<PublishStatusListFile> = None,
        /// Whether the sender of a token must prove possession of the key or certificate in `cnf`.
        pub proof: ProofFile = ProofFile::default(),
        /// The settings for DPoP proofs (RFC 9449).
        pub dpop: DpopFile = DpopFile::default(),
    }
}

/// Whether the sender of a token must prove possession of the key or certificate in `cnf`.
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

section! {
    /// The settings for DPoP proofs (RFC 9449).
    pub struct DpopFile {
        /// The largest difference between a proof's creation and now, in either direction.
        #[schemars(transform = Within("1s", "1h"))]
        pub window: Span = Span::seconds(60),
        /// True: a proof must have a nonce that Doorward has sent in `DPoP-Nonce`. The nonce then dates the proof, so
        /// the clocks of clients do not matter.
        pub nonce: bool = false,
        /// The place where used proofs are recorded.
        pub replay: ReplayFile = ReplayFile::default(),
        /// With `replay: shared`, the treatment of proofs while the store cannot be reached.
        pub on_store_down: OnStoreDown = OnStoreDown::default(),
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
    /// The requests are refused with 503.
    #[default]
    Deny,
    /// Used proofs are recorded in this process, as with `replay: local`.
    Local,
}

/// Whether tokens must name a user.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A token without a user is refused.
    #[default]
    Required,
    /// A token without a user is accepted, such as a token of the client credentials grant; no `user` revocation
    /// applies to it.
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
    /// `any`: every value is accepted.
    Keyword(String),
    /// A list of the accepted values.
    OneOf(Vec<String>),
}

section! {
    /// The source of an issuer's keys: exactly one of `jwks_url`, `discovery`, `jwks_file`, `jwks` and `secret_file`.
    pub struct KeysFile {
        /// The URL of a JWKS.
        #[schemars(example = "https://auth.example.com/jwks", extend("x-shown" = "location"))]
        pub jwks_url: Option<String> = None,
        /// True: uses the JWKS that the issuer's discovery document names.
        pub discovery: bool = false,
        /// The file with a JWKS; Doorward reads it again when it changes.
        #[schemars(extend("x-shown" = "text"))]
        pub jwks_file: Option<String> = None,
        /// A JWKS as part of the configuration.
        #[serde(skip_serializing)]
        #[schemars(with = "Option<serde_json::Map<String, Value>>")]
        pub jwks: Option<Value> = None,
        /// The file with a shared secret for HS256, HS384 or HS512.
        #[schemars(extend("x-shown" = "secret_file"))]
        pub secret_file: Option<String> = None,
        #[doc = text!(insecure)]
        pub insecure: bool = false,
        /// The interval between two fetches of the keys; shorter if the provider's Cache-Control requires it.
        #[schemars(transform = Within("1s", "1d"))]
        pub refresh: Span = Span::seconds(300),
        /// The shortest time between two fetches because of unknown keys.
        #[schemars(transform = Within("1s", "1h"))]
        pub cooldown: Span = Span::seconds(30),
        /// The time for which keys are used while the provider cannot be reached.
        #[schemars(transform = Within("1m", "30d"))]
        pub max_stale: Span = Span::seconds(86_400),
        /// The timeout of one fetch, body included.
        #[schemars(transform = Within("100ms", "1m"))]
        pub timeout: Span = Span::seconds(5),
        #[doc = text!(ca_file of "the server of `jwks_url` or `discovery`")]
        pub ca_file: Option<String> = None,
    }
}

section! {
    /// The places of claims: names, or JSON pointers that begin with `/`; in a list, the first claim that is present
    /// counts.
    pub struct ClaimsFile {
        /// The user, whom `user` revocations name.
        #[schemars(extend("x-shown" = "text"))]
        pub user_id: OneOrMany = OneOrMany::one("sub"),
        /// The user's address.
        #[schemars(extend("x-shown" = "text"))]
        pub email: OneOrMany = OneOrMany::one("email"),
        /// The session, which `session` revocations name.
        #[schemars(extend("x-shown" = "text"))]
        pub session_id: OneOrMany = OneOrMany::many(["sid", "session_id", "origin_jti"]),
        /// The client, which `client` revocations name.
        #[schemars(extend("x-shown" = "text"))]
        pub client_id: OneOrMany = OneOrMany::many(["azp", "client_id", "cid", "appid"]),
        /// The audiences, which must be among `audiences`; an empty list counts as absent.
        #[schemars(extend("x-shown" = "text"))]
        pub audience: OneOrMany = OneOrMany::one("aud"),
    }
}

/// A text, or a list of them.
#[derive(Clone, Deserialize, JsonSchema, Serialize)]
#[serde(untagged)]
pub enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn one(text: &str) -> Self {
        Self::One(text.to_owned())
    }

    fn many<const N: usize>(texts: [&str; N]) -> Self {
        Self::Many(texts.map(str::to_owned).to_vec())
    }
}

/// OpenID Connect Back-Channel Logout 1.0.
#[derive(Clone, Default, Deserialize, JsonSchema, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackchannelLogoutFile {
    /// The client ids that logout tokens may name; without it the `audiences`.
    #[schemars(extend("x-shown" = "text"))]
    pub audiences: Option<Vec<String>>,
    /// The target that a logout token signs out.
    pub scope: LogoutScope,
}

/// The target that a logout token signs out.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LogoutScope {
    /// The session that the logout token names, or else the user.
    #[default]
    Session,
    /// All sessions of the user, if the logout token names one: for issuers whose access tokens do not name a session.
    User,
}

section! {
    /// Introspection at the issuer (RFC 7662).
    #[schemars(transform = Required(&["url", "client_id"]))]
    pub struct IntrospectionFile {
        /// The introspection endpoint.
        #[schemars(extend("x-shown" = "url"))]
        pub url: String = String::new(),
        /// Doorward's client id at the endpoint.
        pub client_id: String = String::new(),
        /// The secret of the client; better in a file.
        #[serde(skip_serializing)]
        pub client_secret: Option<String> = None,
        /// The file with the secret of the client.
        #[schemars(extend("x-shown" = "secret_file"))]
        pub client_secret_file: Option<String> = None,
        /// The time for which a response is cached; never beyond the token's expiry or a revocation.
        #[schemars(transform = Within("0s", "1h"))]
        pub cache: Span = Span::seconds(10),
        /// The timeout of one request.
        #[schemars(transform = Within("10ms", "1m"))]
        pub timeout: Span = Span::seconds(1),
        /// The tokens that are introspected.
        pub when: When = When::default(),
        #[doc = text!(insecure)]
        pub insecure: bool = false,
        #[doc = text!(ca_file of "the endpoint")]
        pub ca_file: Option<String> = None,
    }
}

section! {
    /// Token Status Lists (draft-ietf-oauth-status-list): what `status.status_list` of a token refers to.
    pub struct StatusListFile {
        /// Where lists may be fetched beside the issuer's own origin: the beginnings of their URIs, each with a `/` at its
        /// end.
        #[schemars(example = ["https://cdn.example.com/status/"], extend("x-shown" = "location"))]
        pub prefixes: Vec<String> = Vec::new(),
        /// The longest time between two fetches of a list; shorter if its `ttl` or `exp` requires it.
        #[schemars(transform = Within("1s", "1d"))]
        pub refresh: Span = Span::seconds(60),
        /// The age from which a list is stale, and `on_stale` decides about its tokens. An expired list is stale too.
        #[schemars(transform = Within("1s", "30d"))]
        pub max_stale: Span = Span::seconds(300),
        /// The timeout of one fetch, body included.
        #[schemars(transform = Within("100ms", "1m"))]
        pub timeout: Span = Span::seconds(5),
        /// The status values of tokens that are accepted; 1 (INVALID) cannot be one.
        pub valid: Vec<u8> = vec![0],
        /// The status values of tokens that are refused as `suspended`; every other value refuses as `revoked`.
        pub suspended: Vec<u8> = vec![2],
        #[doc = text!(insecure)]
        pub insecure: bool = false,
        #[doc = text!(ca_file of "the server of a list")]
        pub ca_file: Option<String> = None,
    }
}

section! {
    /// A status list of the tokens that are revoked here, served at `/status-lists/NAME`.
    #[schemars(transform = Required(&["uri", "key_file"]))]
    pub struct PublishStatusListFile {
        /// Where verifiers fetch it: the `uri` of tokens and the `sub` of the list.
        #[schemars(example = "https://gateway.example.com/status-lists/main", extend("x-shown" = "location"))]
        pub uri: String = String::new(),
        /// The private key that signs it, PEM (PKCS #8); its public half is served at `/status-lists/NAME/jwks.json`.
        #[schemars(extend("x-shown" = "secret_file"))]
        pub key_file: String = String::new(),
        /// The number of indexes, a power of two. The more there are, the fewer tokens share one.
        #[schemars(range(min = 1024, max = 134_217_728))]
        pub entries: u32 = 16_777_216,
        /// The time for which verifiers may keep it.
        #[schemars(transform = Within("2s", "1d"))]
        pub ttl: Span = Span::seconds(60),
        /// The time after which they must not use it.
        #[schemars(transform = Within("2s", "30d"))]
        pub lifetime: Span = Span::seconds(600),
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
