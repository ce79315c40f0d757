//! A security event token: a header and a payload, signed as they are by a transmitter.

use std::sync::LazyLock;
use std::time::Duration;

use doorward::authz::jwks::{ASYMMETRIC, Jwks};
use doorward::authz::revocation::{Clocks, Origin, Watermark};
use doorward::authz::signals::{EventOutcome, SubjectFormats, Transmitter};
use doorward::authz::token::{BearerToken, Expiry, UnverifiedToken};
use serde_json::Value;

use super::signer::{self, ISSUER, NOW};
use super::token::issuer;

const AUDIENCE: &str = "https://doorward.test/events";

static TRANSMITTER: LazyLock<Transmitter> = LazyLock::new(|| Transmitter {
    name: issuer().name.clone(),
    issuer: ISSUER.to_owned(),
    audience: AUDIENCE.to_owned(),
    target: issuer().name.clone(),
    subjects: SubjectFormats { iss_sub: true, opaque: true, email: true, scim: true },
    algorithms: ASYMMETRIC.to_vec(),
    leeway: Duration::from_secs(30),
    keys: Some(Jwks::from_value(&signer::jwks(), &ASYMMETRIC).expect("a key set").0),
    push_token: None,
    stream_key: None,
});

/// A header, a line feed, a payload.
pub fn run(data: &[u8]) {
    let (header, payload, text) = signer::sign_parts(data);
    let read = || UnverifiedToken::parse(BearerToken::parse(text.as_bytes(), usize::MAX)?);
    let Ok(token) = read() else { return };
    let Ok(token) = TRANSMITTER.verify(token, issuer().retention(), NOW) else { return };
    let header: Value = serde_json::from_slice(header).expect("it was read");
    let claims: Value = serde_json::from_slice(payload).expect("it was read");
    let named = header["typ"].as_str().unwrap_or_default().to_ascii_lowercase();
    assert_eq!(named.strip_prefix("application/").unwrap_or(&named), "secevent+jwt");
    let audiences = claims["aud"].as_array().cloned().unwrap_or_else(|| vec![claims["aud"].clone()]);
    assert!(audiences.iter().any(|audience| audience == AUDIENCE));
    assert_eq!(claims["jti"], token.jti.as_str());
    assert!(claims["iat"].as_f64().is_some_and(|iat| iat <= 1_767_225_630.001));
    let access = read().map(|token| issuer().verify(token, NOW, Expiry::Tolerated));
    assert!(access.expect("it was read").is_err(), "it is no access token");

    let Ok(outcomes) = TRANSMITTER.outcomes(&token, issuer(), issuer().retention(), Clocks::local(NOW)) else { return };
    assert_eq!(outcomes.len(), claims["events"].as_object().map_or(0, serde_json::Map::len), "an answer to each event");
    for outcome in outcomes {
        let EventOutcome::Revocations(revocations) = outcome else { continue };
        assert!(!revocations.is_empty() && revocations.len() <= 16, "few, however many an event names");
        for revocation in revocations {
            assert_eq!(revocation.target.issuer, TRANSMITTER.target, "of nobody else's tokens");
            assert_eq!(revocation.origin, Origin::Revoked);
            assert!(revocation.expires_at > NOW);
            let forever = revocation.watermark == Watermark::FOREVER;
            // As far as the issuer's own tokens may be dated ahead, and a whole second to its end.
            let latest = NOW.plus(TRANSMITTER.leeway + Duration::from_millis(999));
            assert!(forever || revocation.watermark.instant() <= latest, "not of tokens to come");
        }
    }
}
