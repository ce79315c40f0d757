//! A token: as text in a header field, and as a header and a payload that are signed as they are.

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use doorward::authz::authorizer::Authorizer;
use doorward::authz::claims::names_someone;
use doorward::authz::denial::Denial;
use doorward::authz::refusal::Refusal;
use doorward::authz::revocation::{Clocks, Kind};
use doorward::authz::token::{BearerToken, Expiry, TrustedIssuer, UnverifiedToken, VerifiedToken};
use doorward::config::Config;
use serde_json::Value;

use super::signer::{self, AUDIENCE, ISSUER, NOW, SIGNED, base64url};

const MAX_BYTES: usize = 16_384;

static AUTHORIZER: LazyLock<Authorizer> = LazyLock::new(|| {
    let yaml = format!(
        "revocation: {{store: embedded}}\nissuers: [{{name: main, issuer: \"{ISSUER}\", audiences: [{AUDIENCE}], \
         keys: {{jwks: {}}}}}]\n",
        signer::jwks()
    );
    let config = Config::parse(&yaml, "fuzz", std::path::Path::new(""), std::iter::empty()).expect("no faults").config;
    let mut authorizer = config.authorizer();
    for issuer in &mut authorizer.issuers {
        let longer = TrustedIssuer { max_lifetime: Duration::from_secs(100 * 365 * 86_400), ..(**issuer).clone() };
        *issuer = longer.into();
    }
    authorizer
});

/// `0` and a header field; or anything else, then a header, a line feed and a payload to be signed.
pub fn run(data: &[u8]) {
    match data.split_first() {
        Some((b'0', field)) => read(field),
        Some((mode, rest)) => {
            let at = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            signed(&rest[..at], rest.get(at + 1..).unwrap_or_default(), *mode == b'1');
        }
        None => {}
    }
}

pub(super) fn issuer() -> &'static TrustedIssuer {
    AUTHORIZER.issuer(ISSUER).expect("it is configured")
}

fn verify(bearer: BearerToken<'_>, expiry: Expiry) -> Result<VerifiedToken, Refusal> {
    let unverified = UnverifiedToken::parse(bearer)?;
    if unverified.unverified_issuer()? != ISSUER {
        return Err(Denial::UnknownIssuer.into());
    }
    issuer().verify(unverified, NOW, expiry).inspect_err(|refusal| {
        let detail = refusal.detail.as_deref().unwrap_or_default();
        assert!(
            detail.len() < 2_000 && detail.bytes().all(|byte| matches!(byte, b' '..=b'~')),
            "a log line: {detail:?}"
        );
    })
}

/// Every field is read in one way, whatever its content, and only signed tokens are accepted.
fn read(field: &[u8]) {
    let Ok(Some(bearer)) = BearerToken::from_credentials(field, "Bearer", MAX_BYTES) else { return };
    let text = bearer.as_str();
    assert!(text.len() <= MAX_BYTES && field.ends_with(text.as_bytes()), "a token is the end of its field");
    assert!(field[..6].eq_ignore_ascii_case(b"Bearer"), "of its scheme");
    if UnverifiedToken::parse(bearer).is_ok() {
        let segments: Vec<_> = text.split('.').collect();
        assert_eq!(segments.len(), 3);
        for segment in segments {
            let lenient = GeneralPurposeConfig::new()
                .with_decode_padding_mode(DecodePaddingMode::Indifferent)
                .with_decode_allow_trailing_bits(true);
            let bytes = GeneralPurpose::new(&base64::alphabet::URL_SAFE, lenient).decode(segment).expect("it was read");
            assert_eq!(base64url(bytes), segment, "the one text for these bytes");
        }
    }
    for expiry in [Expiry::Refused, Expiry::Tolerated] {
        if verify(bearer, expiry).is_ok() {
            assert!(SIGNED.iter().any(|signed| signed == text), "nobody signed {text}");
        }
    }
}

/// Whatever an issuer signs, an accepted token has the required claims, in one reading only.
fn signed(header: &[u8], payload: &[u8], tolerated: bool) {
    let text = signer::sign(header, payload);
    let Ok(bearer) = BearerToken::parse(text.as_bytes(), MAX_BYTES) else {
        assert!(text.len() > MAX_BYTES);
        return;
    };
    let expiry = if tolerated { Expiry::Tolerated } else { Expiry::Refused };
    let Ok(token) = verify(bearer, expiry) else { return };

    // The library's reader takes the last of two members, which must not differ from the members that Doorward read.
    // It replaces an object with this member by the JSON in the member's text, which a claim must not choose.
    if String::from_utf8_lossy(payload).contains("serde_json::private") {
        return;
    }
    let header: Value = serde_json::from_slice(header).expect("accepted: JSON");
    let claims: Value = serde_json::from_slice(payload).expect("accepted: JSON");
    for (name, value) in claims.as_object().expect("accepted: an object") {
        assert_eq!(token.claims().get(name).as_ref(), Some(value));
    }
    assert!(matches!(header["alg"].as_str(), Some("EdDSA" | "Ed25519")));
    assert!(["crit", "enc", "zip"].iter().all(|name| header.get(*name).is_none()));
    assert_ne!(header["b64"], Value::Bool(false));
    let kind = header["typ"].as_str().unwrap_or("JWT").to_ascii_lowercase();
    assert!(matches!(kind.trim_start_matches("application/"), "jwt" | "at+jwt"), "{kind}");
    assert_eq!(claims["iss"], ISSUER);
    assert!(claims["aud"] == AUDIENCE || claims["aud"].as_array().is_some_and(|all| all.iter().any(|a| a == AUDIENCE)));
    let sub = match &claims["sub"] {
        Value::Number(number) => Some(number.to_string()),
        other => other.as_str().map(str::to_owned),
    };
    assert!(sub.as_deref().is_some_and(names_someone));

    let (now, leeway) = (1_767_225_600.0, 30.0);
    let date = |name: &str| claims.get(name).map(|value| value.as_f64().expect("accepted: a number"));
    let exp = date("exp").expect("accepted: it has one");
    assert!(tolerated || exp + leeway > now, "accepted after its end");
    assert!(date("nbf").unwrap_or(0.0) <= now + leeway + 0.001 && date("iat").unwrap_or(0.0) <= now + leeway + 0.001);

    let target = |kind| token.targets().iter().find(|target| target.kind == kind);
    assert!(target(Kind::Token).is_some() && target(Kind::Issuer).is_some() && target(Kind::Key).is_some());
    assert!(token.token_id() != "" && token.user_id() == sub.as_deref());
    for (kind, named) in
        [(Kind::Session, token.session_id()), (Kind::User, token.user_id()), (Kind::Client, token.client_id())]
    {
        assert_eq!(target(kind).is_some(), named.is_some(), "what is named can be revoked");
    }
    for name in token.targets() {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._~@|+=-:".contains(&byte);
        let id = name.id.to_string();
        assert!(id.len() <= 128 && id.bytes().all(plain));
    }
    for kind in [Kind::Token, Kind::Session, Kind::User] {
        if let Ok(Some(revocation)) = issuer().sign_out(&token, kind, Clocks::local(NOW)) {
            assert!(revocation.watermark.covers(token.issued_at()), "it signs out the token itself");
            let longest = issuer().retention();
            let dead = token.expires_at().plus(issuer().leeway);
            let dead = token.issued_at().map_or(dead, |at| dead.min(at.plus(longest)));
            assert!(revocation.expires_at >= dead.min(NOW.plus(longest)), "and outlives it");
        }
    }
}
