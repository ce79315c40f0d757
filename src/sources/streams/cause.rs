//! Why streams end.

use crate::authz::denial::Denial;
use crate::authz::labels;
use crate::authz::revocation::Origin;

labels! {
    /// Why Doorward ends a stream.
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub enum Cause {
        SignedOut = "signed_out",
        Revoked = "revoked",
        /// The status list of its issuer suspends its token.
        Suspended = "suspended",
        /// Its token has expired, leeway included.
        Expired = "expired",
        /// The key that verified its token is not published or configured any more.
        KeyWithdrawn = "key_withdrawn",
        /// The key that verified its token is not loaded here, and its issuer's keys cannot be fetched.
        KeysUnavailable = "keys_unavailable",
        /// The issuer of its token is not configured any more, or names its users, sessions or clients by other
        /// claims.
        IssuerRemoved = "issuer_removed",
        /// The view of the revocations, or the status list of its issuer, is older than its rule allows.
        Stale = "stale",
        /// This process shuts down.
        Draining = "draining",
        /// The stream has no seal of a decision.
        Unproven = "unproven",
        /// The limit of streams is reached.
        Crowded = "crowded",
        /// Its messages differ from those of `request_header_mode` and `response_trailer_mode` alone.
        Unexpected = "unexpected",
    }
}

impl Cause {
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
