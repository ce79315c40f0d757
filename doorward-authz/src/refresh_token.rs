//! Refresh tokens that are JWTs: accepted only for revocation (RFC 7009), never for access.

use serde_json::Value;

use super::claims::{ClaimSet, Timestamp};
use super::denial::Denial;
use super::message::{filled, made_at};
use super::refusal::Refusal;
use super::revocation::{Kind, Origin, Revocation, Target, TargetId, Watermark};
use super::token::{Audiences, TrustedIssuer, UnverifiedToken, numeric_date};
use super::token_use::TokenUse;

/// Claims that only an ID token has (OpenID Connect Core 1.0); more parties receive ID tokens than refresh tokens.
const OF_ID_TOKENS: [&str; 4] = ["nonce", "at_hash", "c_hash", "s_hash"];

/// Further claims of ID tokens, about the sign-in and the person. A refresh token for the same client seldom has them,
/// and has a `jti`, by which its issuer recognises it.
const USUAL_IN_ID_TOKENS: [&str; 7] = ["auth_time", "acr", "amr", "email", "name", "preferred_username", "picture"];

impl TrustedIssuer {
    /// The revocation of the session that a refresh token belongs to, or of the token itself if it names no session.
    ///
    /// Its issuer must have signed it. Its audience and its lifetime are not checked, and it may have expired.
    /// `hinted`: the client declares it as one (`token_type_hint`), which counts for a token without a mark of its kind
    /// that does not look like an ID token; without the hint the token must have the mark.
    pub fn sign_out_by_refresh_token(
        &self,
        token: UnverifiedToken<'_>,
        hinted: bool,
        now: Timestamp,
    ) -> Result<Revocation, Refusal> {
        let unnamed = token.digest();
        token.check_signature(self.keys.as_ref(), &self.algorithms)?;
        let token_type = token.token_type();
        let claims = token.into_claims();
        if !is_refresh_token(
            &token_type,
            &claims,
            hinted && (self.may_be_refreshed_by(&claims) || !is_like_id_token(&claims)),
        ) {
            return Err(Denial::WrongType.into());
        }
        if claims.contains_key("iat") {
            made_at(&claims, now.plus(self.leeway))?;
        }
        let session = self.named(&claims)?.session;
        let retained = now.plus(self.retention());
        let (kind, id, expires_at) = if let Some(session) = session {
            (Kind::Session, TargetId::new(&session), retained)
        } else {
            let expires_at = numeric_date(&claims, "exp")?.unwrap_or(retained).plus(self.leeway);
            let jti = filled(&claims, "jti")?;
            (Kind::Token, jti.map_or(unnamed, |jti| TargetId::new(&jti)), expires_at.min(retained))
        };
        let target = Target::new(self.name.clone(), kind, id);
        Ok(Revocation { target, watermark: Watermark::FOREVER, expires_at, origin: Origin::SignedOut, note: None })
    }

    /// Whether it is for the issuer itself or for configured audiences; an ID token is for a client.
    fn may_be_refreshed_by(&self, claims: &ClaimSet) -> bool {
        let names_issuer = |audience: &Value| audience.as_str().is_some_and(|text| self.issuer.name(text).is_some());
        let of_issuer = match claims.get("aud") {
            None => true,
            Some(Value::Array(audiences)) => audiences.iter().any(names_issuer),
            Some(audience) => names_issuer(&audience),
        };
        let ours = matches!(self.audiences, Audiences::OneOf(_)) && self.check_audience(claims).is_ok();
        ours || of_issuer
    }
}

fn is_like_id_token(claims: &ClaimSet) -> bool {
    !claims.contains_key("jti") || USUAL_IN_ID_TOKENS.iter().any(|name| claims.contains_key(name))
}

fn is_refresh_token(token_type: &str, claims: &ClaimSet, hinted: bool) -> bool {
    let of_another_kind = OF_ID_TOKENS.iter().any(|name| claims.contains_key(name)) || claims.contains_key("events");
    match TokenUse::named(Some(token_type), claims) {
        Some(named) => named == TokenUse::Refresh,
        None => hinted && token_type == "jwt" && !of_another_kind,
    }
}
