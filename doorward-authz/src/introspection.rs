//! Introspection responses (RFC 7662) and their use in the decision.
//!
//! The response about an opaque token is subject to the same checks as a JWT's claims. A token that was verified
//! here must match the response in addition. No request is sent here; the need for one is returned as an outcome
//! and resolved by the caller.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use serde_json::Value;

use super::claims::{ClaimSet, IssuerName, Timestamp};
use super::confirmation::Confirmation;
use super::denial::Denial;
use super::issuer_id::unknown;
use super::jwks::without_mark;
use super::refusal::Refusal;
use super::revocation::TargetId;
use super::token::{BearerToken, Expiry, Times, TrustedIssuer, VerifiedToken, name as name_of, numeric_date, text};

/// The tokens that are introspected, and their issuers.
#[derive(Clone, Debug, Default)]
pub struct IntrospectionPolicy {
    /// The issuer of opaque tokens.
    pub opaque: Option<IssuerName>,
    /// Issuers that introspect each of their tokens, in addition to its verification.
    pub always: Vec<IssuerName>,
}

impl IntrospectionPolicy {
    /// Whether no token is introspected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.opaque.is_none() && self.always.is_empty()
    }
}

/// An issuer's response about one token.
#[derive(Clone, Debug)]
pub struct IntrospectionResponse {
    pub issuer: IssuerName,
    pub state: TokenState,
}

#[derive(Clone, Debug)]
pub enum TokenState {
    /// With the members of the response.
    Active(ClaimSet),
    Inactive,
    /// The issuer returned no response.
    Unavailable,
}

impl TokenState {
    /// Reads a response (RFC 7662 section 2.2), as strictly as a token: `active` decides alone, so it must occur
    /// once and be a boolean.
    pub fn parse(body: &[u8]) -> Result<Self, &'static str> {
        let claims =
            ClaimSet::parse(without_mark(body).to_vec()).map_err(|_| "not a JSON object without duplicate members")?;
        match claims.get("active") {
            Some(Value::Bool(true)) => Ok(Self::Active(claims)),
            Some(Value::Bool(false)) => Ok(Self::Inactive),
            _ => Err("`active` is not a boolean"),
        }
    }
}

const LENIENT: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

/// Whether a token is opaque.
///
/// A token that begins with a JOSE header is a JOSE object, however malformed, and is never introspected as
/// opaque: an attacker who damages a JWT on purpose must not choose the authority that decides about it.
#[must_use]
pub fn is_opaque(token: BearerToken<'_>) -> bool {
    let Some((head, _)) = token.as_str().split_once('.') else { return true };
    // The first byte is enough; the rest may be malformed in any way.
    let head = head.replace('+', "-").replace('/', "_");
    let bytes = head.as_bytes().chunks(4).map_while(|quantum| LENIENT.decode(quantum).ok()).flatten();
    bytes.skip_while(u8::is_ascii_whitespace).map(|byte| byte != b'{').next().unwrap_or(true)
}

impl TrustedIssuer {
    /// Accepts an opaque token by its issuer's response: everything except its revocation is checked.
    pub fn vouch(
        &self,
        token: BearerToken<'_>,
        claims: &ClaimSet,
        now: Timestamp,
        expiry: Expiry,
    ) -> Result<VerifiedToken, Refusal> {
        self.check_word(claims)?;
        let times = Times::read(claims)?;
        self.check_times(times, now, expiry)?;
        self.check_audience(claims)?;
        self.lead.observe(times.issued_at, now);
        // Without a signature the text is not malleable: the token itself is its id.
        let unnamed = || TargetId::digest(token.as_bytes());
        let text = self.revocable_by_text.then(unnamed);
        self.identify(claims.clone(), unnamed, text, None, times)
    }

    /// Compares a verified token with the issuer's response: the names in both must be the same, and the revocation of
    /// a target that only the response names (a session) refuses the token, too.
    pub fn corroborate(
        &self,
        token: VerifiedToken,
        claims: &ClaimSet,
        now: Timestamp,
    ) -> Result<VerifiedToken, Refusal> {
        self.check_word(claims)?;
        for name in ["sub", "jti"] {
            let (introspected, written) = (name_of(name, claims.get(name))?, name_of(name, token.claims().get(name))?);
            if introspected.is_some_and(|introspected| written.is_some_and(|written| written != introspected)) {
                return Err(Refusal::invalid(
                    name,
                    "a different value in the introspection response",
                    "that of the token",
                ));
            }
        }
        numeric_date(claims, "iat")?;
        if numeric_date(claims, "nbf")?.is_some_and(|at| at > now.plus(self.leeway)) {
            return Err(Denial::NotYetValid.into());
        }
        if numeric_date(claims, "exp")?.is_some_and(|at| now >= at.plus(self.expiry_leeway)) {
            return Err(Denial::Expired.into());
        }
        if self.audience_of(claims).is_some() {
            self.check_audience(claims)?;
        }
        let named = self.named(claims)?;
        let token = token.also_targeted_by(self.targets(&named).into_iter());
        match (token.confirmation(), Confirmation::read(claims)) {
            (_, None) => Ok(token),
            (None, Some(introspected)) => Ok(token.bound_by(introspected)),
            (Some(written), Some(introspected)) if *written == introspected => Ok(token),
            (Some(_), Some(_)) => {
                Err(Refusal::invalid("cnf", "a different value in the introspection response", "that of the token"))
            }
        }
    }

    fn check_word(&self, claims: &ClaimSet) -> Result<(), Refusal> {
        if let Some(iss) = text(claims, "iss")?.filter(|iss| self.issuer.name(iss).is_none()) {
            return Err(unknown([&self.issuer], Some(&iss)));
        }
        self.check_use(None, claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_with_a_jose_header_is_not_opaque() {
        for (token, opaque) in [
            ("2YotnFZFEjr1zCsicMWpAA", true),
            ("v1.abc.def", true),
            ("a.b.c", true),
            ("eyJhIjoxfQ", true), // No JOSE object has a single part.
            ("eyJhbGciOiJFUzI1NiJ9.e30.AA", false),
            ("eyJhbGciOiJFUzI1NiJ9.e30", false),
            ("eyJhbGciOiJFUzI1NiJ9.x.x.x", false),
            ("eyJhbGciOiJFUzI1NiIg.broken.json", false),
            ("eyJ++/broken.base.64", false),
            ("ICAge30.spaces.first", false),
            ("eyJ.short", false),
            ("eyJhbGciOiJkaXIiLCJlbmMiOiJBMTI4R0NNIn0..a.b.c", false),
        ] {
            let bearer = BearerToken::parse(token.as_bytes(), 100).map(is_opaque);
            assert_eq!(bearer, Ok(opaque), "{token}");
        }
    }

    #[test]
    fn a_response_has_active_once_as_a_boolean() {
        let parsed = |body: &str| match TokenState::parse(body.as_bytes()) {
            Ok(TokenState::Active(_)) => "active",
            Ok(TokenState::Inactive) => "inactive",
            _ => "nothing",
        };
        for (body, expected) in [
            (r#"{"active": true, "sub": "u"}"#, "active"),
            ("\u{feff}{\"active\": true}", "active"),
            (r#"{"active": false}"#, "inactive"),
            (r#"{"active": "true"}"#, "nothing"),
            (r#"{"active": 1}"#, "nothing"),
            (r#"{"active": false, "active": true}"#, "nothing"),
            (r#"{"sub": "u"}"#, "nothing"),
            (r#"[{"active": true}]"#, "nothing"),
            ("true", "nothing"),
            ("", "nothing"),
        ] {
            assert_eq!(parsed(body), expected, "{body}");
        }
    }
}
