//! The supported events: a closed list.

use serde_json::{Map, Value};

use crate::claims::{ClaimSet, Timestamp};
use crate::refusal::Refusal;
use crate::token::numeric_date;

/// The effect of an event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Effect {
    /// The named session ends; all of the user's, if only the user is named.
    Session,
    /// Every token of the user up to now.
    User,
    Verification,
    StreamUpdated,
}

/// By the end of their URIs. Events that only inform (`account-enabled`, `device-compliance-change`,
/// `assurance-level-change`, `session-established`, …) are not in the list and so ignored.
const EVENTS: [(&str, &str, Effect); 13] = [
    (CAEP, "session-revoked", Effect::Session),
    (CAEP, "credential-change", Effect::User),
    (CAEP, "token-claims-change", Effect::User),
    (RISC, "account-disabled", Effect::User),
    (RISC, "account-purged", Effect::User),
    (RISC, "account-credential-change-required", Effect::User),
    (RISC, "credential-compromise", Effect::User),
    (RISC, "identifier-changed", Effect::User),
    (RISC, "identifier-recycled", Effect::User),
    (RISC, "sessions-revoked", Effect::User),
    ("https://schemas.openid.net/secevent/oauth/event-type/", "tokens-revoked", Effect::User),
    (SSF, "verification", Effect::Verification),
    (SSF, "stream-updated", Effect::StreamUpdated),
];

const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";
const RISC: &str = "https://schemas.openid.net/secevent/risc/event-type/";
const SSF: &str = "https://schemas.openid.net/secevent/ssf/event-type/";

/// The event types that a stream is requested to deliver.
pub const REQUESTED: [&str; 10] = [
    "https://schemas.openid.net/secevent/caep/event-type/session-revoked",
    "https://schemas.openid.net/secevent/caep/event-type/credential-change",
    "https://schemas.openid.net/secevent/caep/event-type/token-claims-change",
    "https://schemas.openid.net/secevent/risc/event-type/account-disabled",
    "https://schemas.openid.net/secevent/risc/event-type/account-purged",
    "https://schemas.openid.net/secevent/risc/event-type/account-credential-change-required",
    "https://schemas.openid.net/secevent/risc/event-type/credential-compromise",
    "https://schemas.openid.net/secevent/risc/event-type/identifier-changed",
    "https://schemas.openid.net/secevent/risc/event-type/identifier-recycled",
    "https://schemas.openid.net/secevent/risc/event-type/sessions-revoked",
];

impl Effect {
    /// `None` for an unknown event, and for one without an effect.
    #[must_use]
    pub fn of(uri: &str) -> Option<Self> {
        EVENTS.iter().find(|(base, name, _)| uri.strip_prefix(base) == Some(*name)).map(|(_, _, effect)| *effect)
    }
}

/// The time of the event: `event_timestamp` of CAEP, else `toe` of RFC 8417.
///
/// A timestamp beyond the year 5000 is read as milliseconds, as some transmitters write them. A timestamp before
/// the year 2000 precedes these specifications, such as the 0 of an empty field; it is ignored, like an unreadable
/// one, and the event is dated by its token.
pub(super) fn instant(event: &Map<String, Value>, claims: &ClaimSet) -> Result<Option<Timestamp>, Refusal> {
    const SECONDS: f64 = 1e11;
    const FIRST: Timestamp = Timestamp::from_secs(946_684_800);
    let instant = match event.get("event_timestamp") {
        Some(written) => {
            let Some(number) = written.as_f64().filter(|number| (0.0..1e15).contains(number)) else { return Ok(None) };
            let millis = if number < SECONDS { number * 1000.0 } else { number };
            #[expect(clippy::cast_possible_truncation, reason = "the range was checked above")]
            let millis = millis.floor() as i64;
            Some(Timestamp::from_millis(millis))
        }
        None => numeric_date(claims, "toe")?,
    };
    Ok(instant.filter(|instant| *instant >= FIRST))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requested_event_types_are_those_that_revoke() {
        let revoking: Vec<_> =
            REQUESTED.iter().filter(|uri| matches!(Effect::of(uri), Some(Effect::Session | Effect::User))).collect();
        assert_eq!(revoking.len(), REQUESTED.len());
        assert_eq!(Effect::of("https://schemas.openid.net/secevent/caep/event-type/session-revoked/"), None);
        assert_eq!(Effect::of("https://evil.example/session-revoked"), None);
    }
}
