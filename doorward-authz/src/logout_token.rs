//! Logout tokens (OpenID Connect Back-Channel Logout 1.0): an issuer says that a session has ended.

use std::time::Duration;

use serde_json::Value;

use super::claims::{ClaimSet, Timestamp};
use super::denial::Denial;
use super::refusal::Refusal;
use super::replay::MessageId;
use super::revocation::{Kind, Origin, Revocation, Target, TargetId, Watermark};
use super::token::{Expiry, Times, TrustedIssuer, UnverifiedToken, filled_name, numeric_date, text};

/// The member of `events` that makes a logout token (section 2.4).
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// A logout token that its issuer signed for us, in form and in time.
#[derive(Debug)]
pub struct LogoutToken {
    pub id: MessageId,
    /// `None` when all that it could sign out has expired.
    pub revocation: Option<Revocation>,
}

impl TrustedIssuer {
    /// How long a logout token without `exp` may be on its way: section 4 recommends two minutes.
    const UNDATED_LOGOUT: Duration = Duration::from_secs(120);

    /// Checks a logout token by section 2.6, all but its replay.
    ///
    /// Its `typ` is `logout+jwt`; one without, as older providers send, is told by its `events`, which no
    /// other token has. It names a session (`sid`), else a user (`sub`): tokens up to its own `iat`, so that
    /// a replay would sign out nobody anew.
    pub fn verify_logout(&self, token: UnverifiedToken<'_>, now: Timestamp) -> Result<LogoutToken, Refusal> {
        token.check_signature(self.keys.as_ref(), &self.algorithms)?;
        if !["logout+jwt", "jwt"].contains(&token.token_type().as_str()) {
            return Err(Refusal::new(Denial::WrongType, "`typ` of the header is neither `logout+jwt` nor `JWT`"));
        }
        let claims = token.into_claims();
        if !claims.get("events").is_some_and(|events| events.get(EVENT).is_some_and(Value::is_object)) {
            return Err(Refusal::new(Denial::WrongType, format_args!("`events` has no object `{EVENT}`")));
        }
        // An ID token has one: the two must not pass for each other (section 2.4).
        if claims.contains_key("nonce") {
            return Err(Refusal::new(
                Denial::InvalidClaim,
                "`nonce` is of ID tokens and must not stand in a logout token",
            ));
        }
        let issued_at = numeric_date(&claims, "iat")?.ok_or_else(|| missing("iat"))?;
        // Providers leave `exp` out, as early drafts of the specification did.
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
        let revocation = self.logout_of(&claims, issued_at, now)?;
        Ok(LogoutToken { id, revocation: Some(revocation).filter(|revocation| revocation.expires_at > now) })
    }

    fn logout_of(&self, claims: &ClaimSet, issued_at: Timestamp, now: Timestamp) -> Result<Revocation, Refusal> {
        let session = filled_name("sid", claims.get("sid"))?;
        filled_name("sub", claims.get("sub"))?;
        let target = |kind, id: &str| Target::new(self.name.clone(), kind, TargetId::new(id));
        // Where a session is named that counts, the user is not needed.
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

    /// Whoever names a session as ended means all of its tokens, those to come included.
    pub fn closing_session(&self, target: Target, now: Timestamp) -> Revocation {
        let expires_at = now.plus(self.retention());
        Revocation { target, watermark: Watermark::FOREVER, expires_at, origin: Origin::Revoked, note: None }
    }

    /// The user's tokens up to an instant of the sender's; a whole second counts to its end, as that of a
    /// token does.
    pub fn closing_user(&self, target: Target, instant: Timestamp) -> Revocation {
        let whole = instant.as_millis() % 1000 == 0;
        let instant = if whole { Timestamp::from_millis(instant.as_millis() + 999) } else { instant };
        let expires_at = instant.plus(self.retention());
        Revocation { target, watermark: Watermark::at(instant), expires_at, origin: Origin::Revoked, note: None }
    }
}

/// A message between servers lacks a claim of this name.
pub(super) fn missing(claim: &str) -> Refusal {
    Refusal::new(Denial::MissingClaim, format_args!("`{claim}` is missing"))
}

/// A text claim; an empty one names nothing and is refused.
pub(super) fn filled(claims: &ClaimSet, name: &str) -> Result<Option<String>, Refusal> {
    let text = text(claims, name)?;
    if text.as_deref() == Some("") { Err(Refusal::invalid(name, "empty text", "text")) } else { Ok(text) }
}

/// The NumericDate of a message that was made already: `iat` may not lie in the future, nor be missing.
pub(super) fn made_at(claims: &ClaimSet, latest: Timestamp) -> Result<Timestamp, Refusal> {
    let made_at = numeric_date(claims, "iat")?.ok_or_else(|| missing("iat"))?;
    if made_at > latest { Err(Denial::NotYetValid.into()) } else { Ok(made_at) }
}
