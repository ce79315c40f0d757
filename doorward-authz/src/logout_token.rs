//! Logout tokens (OpenID Connect Back-Channel Logout 1.0): an issuer reports the end of a session.

use std::time::Duration;

use serde_json::Value;

use super::claims::{ClaimSet, Timestamp};
use super::denial::Denial;
use super::message::{filled, missing, signed};
use super::refusal::Refusal;
use super::replay::MessageId;
use super::revocation::{Kind, Origin, Revocation, Target, TargetId, Watermark};
use super::token::{Expiry, Times, TrustedIssuer, UnverifiedToken, filled_name, numeric_date};

/// The member of `events` that makes a logout token (section 2.4).
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// A logout token that its issuer signed for this service, well-formed and in time.
#[derive(Debug)]
pub struct LogoutToken {
    pub id: MessageId,
    pub revocation: Revocation,
}

impl TrustedIssuer {
    /// The longest delivery time of a logout token without `exp`: section 4 recommends two minutes.
    const UNDATED_LOGOUT: Duration = Duration::from_secs(120);

    /// Checks a logout token by section 2.6, except for replay.
    ///
    /// The `typ` of a logout token is `logout+jwt`; a token without that, as older providers send, is recognised by
    /// its `events`, which no other token has. A logout token names a session (`sid`), else a user (`sub`): a user's
    /// tokens are revoked up to the logout token's `iat`, so that a replay would not sign the user out again.
    pub fn verify_logout(&self, token: UnverifiedToken<'_>, now: Timestamp) -> Result<LogoutToken, Refusal> {
        let claims = signed(token, self.keys.as_ref(), &self.algorithms, &["logout+jwt", "JWT"])?;
        if !claims.get("events").is_some_and(|events| events.get(EVENT).is_some_and(Value::is_object)) {
            return Err(Refusal::new(Denial::WrongType, format_args!("`events` has no object `{EVENT}`")));
        }
        // An ID token has one: the two must not be confused (section 2.4).
        if claims.contains_key("nonce") {
            return Err(Refusal::new(
                Denial::InvalidClaim,
                "`nonce` belongs to ID tokens and must not occur in a logout token",
            ));
        }
        let issued_at = numeric_date(&claims, "iat")?.ok_or_else(|| missing("iat"))?;
        // Providers omit `exp`, as in early drafts of the specification.
        let times = if claims.contains_key("exp") {
            Times::read(&claims)?
        } else {
            Times::of_message(&claims, issued_at, issued_at.plus(Self::UNDATED_LOGOUT.min(self.max_lifetime)))?
        };
        self.check_times(times, now, Expiry::Refused)?;
        let expires_at = times.expires_at;
        if !claims.contains_key("aud") {
            return Err(missing("aud"));
        }
        self.logout.audiences.check("aud", claims.get("aud"))?;
        let jti = filled(&claims, "jti")?.ok_or_else(|| missing("jti"))?;
        let id = MessageId::new(self.name.as_str(), &jti, expires_at.plus(self.leeway));
        Ok(LogoutToken { id, revocation: self.logout_of(&claims, issued_at, now)? })
    }

    fn logout_of(&self, claims: &ClaimSet, issued_at: Timestamp, now: Timestamp) -> Result<Revocation, Refusal> {
        let session = filled_name("sid", claims.get("sid"))?;
        filled_name("sub", claims.get("sub"))?;
        let target = |kind, id: &str| Target::new(self.name.clone(), kind, TargetId::new(id));
        // If the token names a session that counts, the user is not needed.
        let user = match &session {
            Some(_) if !self.logout.always_user => None,
            _ => self.user_in_message(claims)?,
        };
        match (user, session) {
            (Some(user), _) => Ok(self.closing_user(target(Kind::User, &user), issued_at)),
            (None, Some(session)) => Ok(self.closing_session(target(Kind::Session, &session), now)),
            (None, None) => Err(missing("sid` or `sub")),
        }
        .map(|revocation| Revocation { origin: Origin::SignedOut, ..revocation })
    }

    /// The end of a session applies to all its tokens, including later ones.
    pub fn closing_session(&self, target: Target, now: Timestamp) -> Revocation {
        let expires_at = now.plus(self.retention());
        Revocation { target, watermark: Watermark::FOREVER, expires_at, origin: Origin::Revoked, note: None }
    }

    /// The user's tokens up to a time of the sender's; a whole second counts to its end, as in a token.
    pub fn closing_user(&self, target: Target, instant: Timestamp) -> Revocation {
        let whole = instant.as_millis() % 1000 == 0;
        let instant = if whole { Timestamp::from_millis(instant.as_millis() + 999) } else { instant };
        let expires_at = instant.plus(self.retention());
        Revocation { target, watermark: Watermark::at(instant), expires_at, origin: Origin::Revoked, note: None }
    }
}
