//! Why streams end.

use crate::authz::denial::Denial;
use crate::authz::revocation::Origin;

/// Why Doorward ends a stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Cause {
    SignedOut,
    Revoked,
    /// The status list of its issuer suspends its token.
    Suspended,
    /// Its token has expired, leeway included.
    Expired,
    /// The key that verified its token is not published or configured any more.
    KeyWithdrawn,
    /// The key that verified its token is not loaded here, and its issuer's keys cannot be fetched.
    KeysUnavailable,
    /// The issuer of its token is not configured any more, or names its users, sessions or clients by other claims.
    IssuerRemoved,
    /// The view of the revocations, or the status list of its issuer, is older than its rule allows.
    Stale,
    /// This process shuts down.
    Draining,
    /// The stream has no seal of a decision.
    Unproven,
    /// The limit of streams is reached.
    Crowded,
    /// Its messages differ from those of `request_header_mode` and `response_trailer_mode` alone.
    Unexpected,
}

impl Cause {
    pub const ALL: [Self; 12] = [
        Self::SignedOut,
        Self::Revoked,
        Self::Suspended,
        Self::Expired,
        Self::KeyWithdrawn,
        Self::KeysUnavailable,
        Self::IssuerRemoved,
        Self::Stale,
        Self::Draining,
        Self::Unproven,
        Self::Crowded,
        Self::Unexpected,
    ];

    /// The stable public name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::SignedOut => "signed_out",
            Self::Revoked => "revoked",
            Self::Suspended => "suspended",
            Self::Expired => "expired",
            Self::KeyWithdrawn => "key_withdrawn",
            Self::KeysUnavailable => "keys_unavailable",
            Self::IssuerRemoved => "issuer_removed",
            Self::Stale => "stale",
            Self::Draining => "draining",
            Self::Unproven => "unproven",
            Self::Crowded => "crowded",
            Self::Unexpected => "unexpected",
        }
    }

    /// The denial of a request with this token; an error, if only the stream is refused, is a sentence for the
    /// client's developer.
    pub const fn denial(self) -> Result<Denial, &'static str> {
        Ok(match self {
            Self::SignedOut => Denial::SignedOut,
            Self::Revoked => Denial::Revoked,
            Self::Suspended => Denial::Suspended,
            Self::Expired => Denial::Expired,
            Self::KeyWithdrawn => Denial::UnknownKey,
            Self::KeysUnavailable => Denial::KeysUnavailable,
            Self::IssuerRemoved => Denial::UnknownIssuer,
            Self::Stale => Denial::RevocationsStale,
            Self::Draining => return Err("this instance shuts down; another instance accepts the stream"),
            Self::Crowded => return Err("the limit of open streams is reached"),
            Self::Unproven => return Err("the stream does not prove that its request was allowed"),
            Self::Unexpected => return Err("the proxy sends an unexpected message of the stream"),
        })
    }
}

impl From<Origin> for Cause {
    fn from(origin: Origin) -> Self {
        match origin {
            Origin::SignedOut => Self::SignedOut,
            Origin::Revoked => Self::Revoked,
        }
    }
}
