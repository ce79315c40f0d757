//! The closed list of reasons for which a request is refused.

/// Why a request is refused.
///
/// A plain value: its form on the wire (status, challenge, body) is decided in one place, `answer`. Its
/// label is public: it is used in answers, metrics, logs and access logs.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Denial {
    MissingToken,
    MultipleTokens,
    MalformedToken,
    UnknownIssuer,
    UnknownKey,
    AlgorithmNotAllowed,
    BadSignature,
    MissingClaim,
    InvalidClaim,
    Expired,
    NotYetValid,
    LifetimeTooLong,
    WrongAudience,
    WrongType,
    TokenInactive,
    Revoked,
    SignedOut,
    NotRegistered,
    /// The token is bound, and the request does not prove that its sender may use it.
    ProofMissing,
    ProofInvalid,
    ApiKeyMissing,
    ApiKeyUnknown,
    ApiKeyExpired,
    ApiKeyPlatform,
    ApiKeyDomain,
    InsufficientScope,
    ClaimMismatch,
    InsufficientAuthentication,
    KeysUnavailable,
    RevocationsStale,
    StoreUnavailable,
    IntrospectionUnavailable,
    /// This machine's clock and the store's differ by more than the leeway: there is no valid watermark.
    ClockSkew,
    BadRequest,
    /// Doorward itself failed; the request is refused, the process continues.
    InternalError,
}

impl Denial {
    pub const ALL: [Self; 35] = [
        Self::MissingToken,
        Self::MultipleTokens,
        Self::MalformedToken,
        Self::UnknownIssuer,
        Self::UnknownKey,
        Self::AlgorithmNotAllowed,
        Self::BadSignature,
        Self::MissingClaim,
        Self::InvalidClaim,
        Self::Expired,
        Self::NotYetValid,
        Self::LifetimeTooLong,
        Self::WrongAudience,
        Self::WrongType,
        Self::TokenInactive,
        Self::Revoked,
        Self::SignedOut,
        Self::NotRegistered,
        Self::ProofMissing,
        Self::ProofInvalid,
        Self::ApiKeyMissing,
        Self::ApiKeyUnknown,
        Self::ApiKeyExpired,
        Self::ApiKeyPlatform,
        Self::ApiKeyDomain,
        Self::InsufficientScope,
        Self::ClaimMismatch,
        Self::InsufficientAuthentication,
        Self::KeysUnavailable,
        Self::RevocationsStale,
        Self::StoreUnavailable,
        Self::IntrospectionUnavailable,
        Self::ClockSkew,
        Self::BadRequest,
        Self::InternalError,
    ];

    /// Whether the token is refused, and not the request or for lack of data.
    #[must_use]
    pub const fn is_about_token(self) -> bool {
        matches!(
            self,
            Self::MultipleTokens
                | Self::MalformedToken
                | Self::UnknownIssuer
                | Self::UnknownKey
                | Self::AlgorithmNotAllowed
                | Self::BadSignature
                | Self::MissingClaim
                | Self::InvalidClaim
                | Self::Expired
                | Self::NotYetValid
                | Self::LifetimeTooLong
                | Self::WrongAudience
                | Self::WrongType
                | Self::TokenInactive
                | Self::Revoked
                | Self::SignedOut
                | Self::NotRegistered
                | Self::ProofMissing
                | Self::ProofInvalid
        )
    }

    /// The stable public name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::MissingToken => "missing_token",
            Self::MultipleTokens => "multiple_tokens",
            Self::MalformedToken => "malformed_token",
            Self::UnknownIssuer => "unknown_issuer",
            Self::UnknownKey => "unknown_key",
            Self::AlgorithmNotAllowed => "algorithm_not_allowed",
            Self::BadSignature => "bad_signature",
            Self::MissingClaim => "missing_claim",
            Self::InvalidClaim => "invalid_claim",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::LifetimeTooLong => "lifetime_too_long",
            Self::WrongAudience => "wrong_audience",
            Self::WrongType => "wrong_type",
            Self::TokenInactive => "token_inactive",
            Self::Revoked => "revoked",
            Self::SignedOut => "signed_out",
            Self::NotRegistered => "not_registered",
            Self::ProofMissing => "proof_missing",
            Self::ProofInvalid => "proof_invalid",
            Self::ApiKeyMissing => "api_key_missing",
            Self::ApiKeyUnknown => "api_key_unknown",
            Self::ApiKeyExpired => "api_key_expired",
            Self::ApiKeyPlatform => "api_key_platform",
            Self::ApiKeyDomain => "api_key_domain",
            Self::InsufficientScope => "insufficient_scope",
            Self::ClaimMismatch => "claim_mismatch",
            Self::InsufficientAuthentication => "insufficient_authentication",
            Self::KeysUnavailable => "keys_unavailable",
            Self::RevocationsStale => "revocations_stale",
            Self::StoreUnavailable => "store_unavailable",
            Self::IntrospectionUnavailable => "introspection_unavailable",
            Self::ClockSkew => "clock_skew",
            Self::BadRequest => "bad_request",
            Self::InternalError => "internal_error",
        }
    }

    /// A sentence for the client's developer; contains nothing from the request.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::MissingToken => "the request carries no access token",
            Self::MultipleTokens => "the request carries more than one access token",
            Self::MalformedToken => "the access token is not a well-formed signed JWT",
            Self::UnknownIssuer => "the access token comes from an issuer that is not trusted here",
            Self::UnknownKey => "the access token is signed by a key that its issuer does not publish",
            Self::AlgorithmNotAllowed => "the access token's algorithm is not allowed for its issuer and key",
            Self::BadSignature => "the access token's signature is not valid",
            Self::MissingClaim => "the access token lacks a required claim",
            Self::InvalidClaim => "a claim of the access token has an invalid value",
            Self::Expired => "the access token has expired",
            Self::NotYetValid => "the access token is not valid yet",
            Self::LifetimeTooLong => "the access token lives longer than is allowed",
            Self::WrongAudience => "the access token is meant for another audience",
            Self::WrongType => "the token is not an access token",
            Self::TokenInactive => "the authorization server says that the access token is not active",
            Self::Revoked => "the access token has been revoked",
            Self::SignedOut => "the user has signed out",
            Self::NotRegistered => "the access token is not registered",
            Self::ProofMissing => "the request does not prove that its sender may use the access token",
            Self::ProofInvalid => "the proof that the sender may use the access token is not valid",
            Self::ApiKeyMissing => "the request carries no API key",
            Self::ApiKeyUnknown => "the API key is not known",
            Self::ApiKeyExpired => "the API key has expired",
            Self::ApiKeyPlatform => "the API key may not be used on this platform",
            Self::ApiKeyDomain => "the API key may not be used from this domain",
            Self::InsufficientScope => "the access token lacks a required scope",
            Self::ClaimMismatch => "the access token does not meet the requirements of this resource",
            Self::InsufficientAuthentication => "this resource requires a stronger or more recent authentication",
            Self::KeysUnavailable => "the issuer's keys are not available",
            Self::RevocationsStale => "the list of revocations is not current",
            Self::StoreUnavailable => "the list of revocations is not available",
            Self::IntrospectionUnavailable => "the authorization server does not answer",
            Self::ClockSkew => {
                "the clocks of this instance and of the store are too far apart, or the store's was not read yet"
            }
            Self::BadRequest => "the request cannot be understood",
            Self::InternalError => "the decision failed",
        }
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
