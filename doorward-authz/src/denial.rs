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
}

/// Declares the denials: each with its label, its class, the check that refuses with it (`-`: a fault of Doorward
/// itself) and its message.
macro_rules! denials {
    (@check -) => { None };
    (@check $check:ident) => { Some(Check::$check) };
    ($($(#[$doc:meta])* $denial:ident: $label:literal, $class:ident, $check:tt, $message:literal;)+) => {
        /// Why a request is refused.
        ///
        /// A plain value. Its label is public: it stands in answers, metrics, logs and access logs.
        #[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
        pub enum Denial {
            $($(#[$doc])* $denial,)+
        }

        impl Denial {
            /// In the order of their declaration.
            pub const ALL: [Self; ROWS.len()] = [$(Self::$denial),+];
        }

        const ROWS: &[Row] = &[
            $(Row { label: $label, class: Class::$class, check: denials!(@check $check), message: $message },)+
        ];
    };
}

denials! {
    MissingToken: "missing_token", NO_TOKEN, Token, "the request carries no access token";
    MultipleTokens: "multiple_tokens", TWO_TOKENS, Token, "the request carries more than one access token";
    MalformedToken: "malformed_token", BAD_TOKEN, Token, "the access token is not a well-formed signed JWT";
    UnknownIssuer: "unknown_issuer", BAD_TOKEN, Issuer, "the access token comes from an issuer that is not trusted here";
    UnknownKey: "unknown_key", BAD_TOKEN, Key, "the access token is signed by a key that its issuer does not publish";
    AlgorithmNotAllowed: "algorithm_not_allowed", BAD_TOKEN, Algorithm,
        "the access token's algorithm is not allowed for its issuer and key";
    BadSignature: "bad_signature", BAD_TOKEN, Signature, "the access token's signature is not valid";
    MissingClaim: "missing_claim", BAD_TOKEN, Claims, "the access token lacks a required claim";
    InvalidClaim: "invalid_claim", BAD_TOKEN, Claims, "a claim of the access token has an invalid value";
    Expired: "expired", BAD_TOKEN, Time, "the access token has expired";
    NotYetValid: "not_yet_valid", BAD_TOKEN, Time, "the access token is not valid yet";
    LifetimeTooLong: "lifetime_too_long", BAD_TOKEN, Time, "the lifetime of the access token is longer than allowed";
    WrongAudience: "wrong_audience", BAD_TOKEN, Audience, "the access token is for another audience";
    WrongType: "wrong_type", BAD_TOKEN, Type, "the token is not an access token";
    TokenInactive: "token_inactive", BAD_TOKEN, Introspection,
        "the authorization server reports that the access token is not active";
    Revoked: "revoked", BAD_TOKEN, Revocation, "the access token has been revoked";
    SignedOut: "signed_out", BAD_TOKEN, Revocation, "the user has signed out";
    /// By the status list of its issuer, which may lift it.
    Suspended: "suspended", BAD_TOKEN, Revocation, "the access token has been suspended";
    NotRegistered: "not_registered", BAD_TOKEN, Revocation, "the access token is not registered";
    /// The token is bound, and the request does not prove that its sender may use it.
    ProofMissing: "proof_missing", BAD_TOKEN, Proof,
        "the request does not prove that its sender may use the access token";
    ProofInvalid: "proof_invalid", BAD_TOKEN, Proof,
        "the proof that the sender may use the access token is not valid";
    ApiKeyMissing: "api_key_missing", BAD_API_KEY, ApiKey, "the request carries no API key";
    ApiKeyUnknown: "api_key_unknown", BAD_API_KEY, ApiKey, "the API key is not known";
    ApiKeyExpired: "api_key_expired", BAD_API_KEY, ApiKey, "the API key has expired";
    ApiKeyPlatform: "api_key_platform", FORBIDDEN, ApiKey, "the API key may not be used on this platform";
    ApiKeyDomain: "api_key_domain", FORBIDDEN, ApiKey, "the API key may not be used from this domain";
    InsufficientScope: "insufficient_scope", SCOPE, Scopes, "the access token lacks a required scope";
    ClaimMismatch: "claim_mismatch", FORBIDDEN, RequiredClaims,
        "the access token does not meet the requirements of this resource";
    InsufficientAuthentication: "insufficient_authentication", STEP_UP, Authentication,
        "this resource requires a stronger or more recent authentication";
    KeysUnavailable: "keys_unavailable", UNAVAILABLE, Key, "the issuer's keys are not available";
    RevocationsStale: "revocations_stale", UNAVAILABLE, Revocation, "the list of revocations is not current";
    StoreUnavailable: "store_unavailable", UNAVAILABLE, Revocation, "the list of revocations is not available";
    IntrospectionUnavailable: "introspection_unavailable", UNAVAILABLE, Introspection,
        "the authorization server is not available";
    /// This machine's clock and the store's are further apart than the leeway: no instant can be stamped.
    ClockSkew: "clock_skew", UNAVAILABLE, Revocation,
        "the clocks of this instance and of the store are too far apart, or the store's was not read yet";
    /// More signatures wait to be verified than may wait; only where the caller's thread must not verify them all.
    Overloaded: "overloaded", UNAVAILABLE, Signature, "too many signatures are waiting to be verified";
    BadRequest: "bad_request", BAD_REQUEST, Rule, "the request is malformed";
    /// Doorward itself failed; the request is refused, the process continues.
    InternalError: "internal_error", UNAVAILABLE, -, "the decision failed";
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_distinct() {
        let labels: std::collections::HashSet<_> = Denial::ALL.iter().map(|d| d.label()).collect();
        assert_eq!(labels.len(), Denial::ALL.len());
    }
}
