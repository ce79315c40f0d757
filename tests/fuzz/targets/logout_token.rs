//! A logout token: a header and a payload, signed as they are by the issuer.

use doorward::authz::revocation::{Kind, Origin, Watermark};
use doorward::authz::token::{BearerToken, Expiry, UnverifiedToken};
use serde_json::Value;

use super::signer::{self, ISSUER, NOW};
use super::token::issuer;

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

/// A header, a line feed, a payload.
pub fn run(data: &[u8]) {
    let (header, payload, text) = signer::sign_parts(data);
    let read = || UnverifiedToken::parse(BearerToken::parse(text.as_bytes(), usize::MAX)?);
    let Ok(token) = read() else { return };
    if token.unverified_issuer().as_deref() != Ok(ISSUER) {
        return;
    }
    let logout = issuer().verify_logout(token, NOW);
    let header: Value = serde_json::from_slice(header).expect("it was read");
    let claims: Value = serde_json::from_slice(payload).expect("it was read");
    let named = header["typ"].as_str().unwrap_or("JWT").to_ascii_lowercase();
    let named = named.strip_prefix("application/").unwrap_or(&named);
    let access = read().map(|token| issuer().verify(token, NOW, Expiry::Tolerated)).expect("it was read");
    assert!(named != "logout+jwt" || access.is_err(), "a logout token is no access token");

    let Ok(logout) = logout else { return };
    assert!(matches!(named, "logout+jwt" | "jwt"));
    assert!(claims["events"][EVENT].is_object() && claims.get("nonce").is_none());
    let date = |name: &str| claims[name].as_f64().expect("it has one");
    let now = 1_767_225_600.0;
    assert!(date("iat") <= now + 30.001 && date("exp") + 30.0 > now);
    assert!(claims["jti"].as_str().is_some_and(|jti| !jti.is_empty()));
    let revocation = logout.revocation;
    assert_eq!((&revocation.target.issuer, revocation.origin), (&issuer().name, Origin::SignedOut));
    match revocation.target.kind {
        Kind::Session => assert!(claims["sid"].is_string() && revocation.watermark == Watermark::FOREVER),
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of this century")]
        Kind::User => {
            let until = revocation.watermark.instant().as_millis() as f64;
            assert!(
                claims["sub"].is_string() && until < date("iat") * 1000.0 + 1000.0,
                "a replay signs out nobody anew"
            );
        }
        kind => panic!("{kind} is not what a logout token names"),
    }
}
