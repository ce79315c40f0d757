//! The closed list of reasons for which a request is refused, as a table: a row for each.

mod check;

pub use check::Check;

/// How a class of denials is answered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Class {
    /// The HTTP status.
    pub status: u16,
    /// `error` of the body and of the challenge (RFC 6750 section 3.1).
    pub error: &'static str,
    /// The scheme of the `WWW-Authenticate` challenge.
    pub challenge: Option<&'static str>,
    /// Whether it is the token that is refused, not the request or for want of something.
    pub is_about_token: bool,
}

/// The scheme of challenges for tokens (RFC 6750 section 3).
pub const BEARER: &str = "Bearer";

impl Class {
    const NO_TOKEN: Self = Self::refusing(401, "missing_token", Some(BEARER));
    const BAD_REQUEST: Self = Self::refusing(400, "invalid_request", None);
    const TWO_TOKENS: Self = Self { is_about_token: true, ..Self::BAD_REQUEST };
    const BAD_TOKEN: Self = Self { is_about_token: true, ..Self::refusing(401, "invalid_token", Some(BEARER)) };
    const BAD_API_KEY: Self = Self::refusing(401, "invalid_api_key", Some("ApiKey"));
    const FORBIDDEN: Self = Self::refusing(403, "access_denied", None);
    const SCOPE: Self = Self::refusing(403, "insufficient_scope", Some(BEARER));
    /// RFC 9470 section 3.
    const STEP_UP: Self = Self::refusing(401, "insufficient_user_authentication", Some(BEARER));
    const UNAVAILABLE: Self = Self::refusing(503, "temporarily_unavailable", None);

    const fn refusing(status: u16, error: &'static str, challenge: Option<&'static str>) -> Self {
        Self { status, error, challenge, is_about_token: false }
    }
}

struct Row {
    label: &'static str,
    class: Class,
    check: Option<Check>,
    message: &'static str,
    meaning: &'static str,
}

/// Declares the denials: each with its label, its class, the check that refuses with it (`-`: a fault of Doorward
/// itself), its message to the client's developer and its meaning for the operator.
macro_rules! denials {
    (@check -) => { None };
    (@check $check:ident) => { Some(Check::$check) };
    ($($(#[$doc:meta])* $denial:ident: $label:literal, $class:ident, $check:tt, $message:literal, $meaning:literal;)+) => {
        /// Why a request is refused.
        ///
        /// A plain value. Its label is public: it stands in answers, metrics, logs and access logs.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Denial {
            $($(#[$doc])* $denial,)+
        }

        impl Denial {
            /// In the order of their declaration.
            pub const ALL: [Self; ROWS.len()] = [$(Self::$denial),+];
        }

        const ROWS: &[Row] = &[
            $(Row {
                label: $label,
                class: Class::$class,
                check: denials!(@check $check),
                message: $message,
                meaning: $meaning,
            },)+
        ];
    };
}

denials! {
    MissingToken: "missing_token", NO_TOKEN, Token,
        "the request carries no access token",
        "The request has no token.";
    MultipleTokens: "multiple_tokens", TWO_TOKENS, Token,
        "the request carries more than one access token",
        "The request has different tokens.";
    MalformedToken: "malformed_token", BAD_TOKEN, Token,
        "the access token is not a well-formed signed JWT",
        "The token cannot be parsed.";
    UnknownIssuer: "unknown_issuer", BAD_TOKEN, Issuer,
        "the access token comes from an issuer that is not trusted here",
        "The issuer of the token is not configured.";
    UnknownKey: "unknown_key", BAD_TOKEN, Key,
        "the access token is signed by a key that its issuer does not publish",
        "The issuer does not publish a key with this kid.";
    AlgorithmNotAllowed: "algorithm_not_allowed", BAD_TOKEN, Algorithm,
        "the access token's algorithm is not allowed for its issuer and key",
        "The algorithm of the token is not allowed.";
    BadSignature: "bad_signature", BAD_TOKEN, Signature,
        "the access token's signature is not valid",
        "The signature is not the issuer's.";
    MissingClaim: "missing_claim", BAD_TOKEN, Claims,
        "the access token lacks a required claim",
        "A claim that the configuration requires is missing.";
    InvalidClaim: "invalid_claim", BAD_TOKEN, Claims,
        "a claim of the access token has an invalid value",
        "A claim has a value that cannot be used.";
    Expired: "expired", BAD_TOKEN, Time,
        "the access token has expired",
        "The token has expired. Many at once: a client does not refresh its tokens.";
    NotYetValid: "not_yet_valid", BAD_TOKEN, Time,
        "the access token is not valid yet",
        "The token is dated in the future: compare the clocks of the issuer and of this host.";
    LifetimeTooLong: "lifetime_too_long", BAD_TOKEN, Time,
        "the lifetime of the access token is longer than allowed",
        "The token lives longer than max_lifetime allows.";
    WrongAudience: "wrong_audience", BAD_TOKEN, Audience,
        "the access token is for another audience",
        "The token is for another service: compare its aud with audiences.";
    WrongType: "wrong_type", BAD_TOKEN, Type,
        "the token is not an access token",
        "The token is of another kind, such as an ID token or a refresh token.";
    TokenInactive: "token_inactive", BAD_TOKEN, Introspection,
        "the authorization server reports that the access token is not active",
        "The issuer's introspection reports the token as expired, revoked or unknown.";
    Revoked: "revoked", BAD_TOKEN, Revocation,
        "the access token has been revoked",
        "The token is revoked. A client still presents it.";
    SignedOut: "signed_out", BAD_TOKEN, Revocation,
        "the user has signed out",
        "The user has signed out. A client still presents the token.";
    /// By the status list of its issuer, which may lift it.
    Suspended: "suspended", BAD_TOKEN, Revocation,
        "the access token has been suspended",
        "The status list of the issuer suspends the token, and may lift that.";
    NotRegistered: "not_registered", BAD_TOKEN, Revocation,
        "the access token is not registered",
        "The list is an allow list (revocation.list: allow), and the token's id is not registered.";
    /// The token is bound, and the request does not prove that its sender may use it.
    ProofMissing: "proof_missing", BAD_TOKEN, Proof,
        "the request does not prove that its sender may use the access token",
        "The token is bound to a key, and the request has no proof.";
    ProofInvalid: "proof_invalid", BAD_TOKEN, Proof,
        "the proof that the sender may use the access token is not valid",
        "The proof does not match the token or the request.";
    ApiKeyMissing: "api_key_missing", BAD_API_KEY, ApiKey,
        "the request carries no API key",
        "The rule requires an API key, and the request has none.";
    ApiKeyUnknown: "api_key_unknown", BAD_API_KEY, ApiKey,
        "the API key is not known",
        "No entry of api_keys.keys has the SHA-256 of this key.";
    ApiKeyExpired: "api_key_expired", BAD_API_KEY, ApiKey,
        "the API key has expired",
        "The key is past its expires in api_keys.keys.";
    ApiKeyPlatform: "api_key_platform", FORBIDDEN, ApiKey,
        "the API key may not be used on this platform",
        "The key is for other platforms: compare the request's platform header with the key's platforms.";
    ApiKeyDomain: "api_key_domain", FORBIDDEN, ApiKey,
        "the API key may not be used from this domain",
        "The key is for other sites: compare the request's Origin or Referer with the key's domains.";
    InsufficientScope: "insufficient_scope", SCOPE, Scopes,
        "the access token lacks a required scope",
        "The token lacks a scope that the rule requires.";
    ClaimMismatch: "claim_mismatch", FORBIDDEN, RequiredClaims,
        "the access token does not meet the requirements of this resource",
        "A claim has another value than the rule requires.";
    InsufficientAuthentication: "insufficient_authentication", STEP_UP, Authentication,
        "this resource requires a stronger or more recent authentication",
        "The sign-in is too old or too weak for this rule.";
    KeysUnavailable: "keys_unavailable", UNAVAILABLE, Key,
        "the issuer's keys are not available",
        "The issuer's keys are not loaded: check keys.jwks_url.";
    RevocationsStale: "revocations_stale", UNAVAILABLE, Revocation,
        "the list of revocations is not current",
        "The view of the revocations is too old: see the fleet.";
    StoreUnavailable: "store_unavailable", UNAVAILABLE, Revocation,
        "the store of revocations is not available",
        "The store did not answer in time.";
    IntrospectionUnavailable: "introspection_unavailable", UNAVAILABLE, Introspection,
        "the authorization server is not available",
        "The issuer does not answer introspection: check introspection.url.";
    /// This machine's clock and the store's are further apart than the leeway: no instant can be stamped.
    ClockSkew: "clock_skew", UNAVAILABLE, Revocation,
        "the clocks of this instance and of the store are too far apart, or the store's was not read yet",
        "The clock of this host differs too much from that of the store.";
    /// More signatures wait to be verified than may wait; only where the caller's thread must not verify them all.
    Overloaded: "overloaded", UNAVAILABLE, Signature,
        "too many signatures are waiting to be verified",
        "Too many signatures wait to be verified: limit the requests before Envoy's filter.";
    BadRequest: "bad_request", BAD_REQUEST, Rule,
        "the request is malformed",
        "The request cannot be decided: see the log.";
    /// Doorward itself failed; the request is refused, the process continues.
    InternalError: "internal_error", UNAVAILABLE, -,
        "the decision failed",
        "A fault of Doorward: see the log.";
}

impl Denial {
    const fn row(self) -> &'static Row {
        &ROWS[self as usize]
    }

    /// Whether the token is refused, and not the request or for lack of data.
    #[must_use]
    pub const fn is_about_token(self) -> bool {
        self.class().is_about_token
    }

    /// Whether the request is refused for lack of data or of time: a later try may be decided.
    #[must_use]
    pub const fn is_temporary(self) -> bool {
        self.class().status == Class::UNAVAILABLE.status
    }

    /// The stable public name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        self.row().label
    }

    /// Its status, error code and challenge.
    #[must_use]
    pub const fn class(self) -> Class {
        self.row().class
    }

    /// The check that refuses with it; `None` for a fault of Doorward's own.
    #[must_use]
    pub const fn check(self) -> Option<Check> {
        self.row().check
    }

    /// A sentence for the client's developer; contains nothing from the request.
    #[must_use]
    pub const fn message(self) -> &'static str {
        self.row().message
    }

    /// Its meaning for an operator: what the request lacks, and where to look.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        self.row().meaning
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct() {
        let labels: std::collections::HashSet<_> = Denial::ALL.iter().map(|d| d.label()).collect();
        assert_eq!(labels.len(), Denial::ALL.len());
    }

    /// As the console and answers show them.
    #[test]
    fn a_message_is_a_fragment_and_a_meaning_is_a_sentence() {
        for denial in Denial::ALL {
            let (message, meaning) = (denial.message(), denial.meaning());
            assert!(message.starts_with(char::is_lowercase) && !message.ends_with('.'), "{message}");
            assert!(meaning.starts_with(char::is_uppercase) && meaning.ends_with('.'), "{meaning}");
        }
    }
}
