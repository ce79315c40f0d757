//! The declared use of a token: the list of marks by which issuers and libraries tell their tokens apart.

use serde_json::Value;

use super::claims::ClaimSet;

/// The use that a token names itself.
///
/// Issuers sign ID tokens, refresh tokens and messages between servers with the keys of their access tokens; a
/// holder of one must not pass it for another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenUse {
    Access,
    Id,
    Refresh,
    /// A logout token, a security event, a registration: for servers, never for access.
    Message,
}

/// The claims in which uses are named: `typ` of Keycloak, `token_use` of Cognito, `token_type` of SimpleJWT and
/// RFC 7662, `type` of Flask, `tokenName` of ForgeRock, `tokenType` of Casdoor, `purpose` of Curity.
const CLAIMS: [&str; 9] =
    ["typ", "type", "use", "token_use", "token_type", "tokenUse", "tokenType", "tokenName", "purpose"];

/// Abbreviations that mean a use in one claim only: `tok_type` of Oracle, `drn` of Descope, `tty` of FusionAuth.
const ABBREVIATED: [(&str, &str, TokenUse); 8] = [
    ("tok_type", "at", TokenUse::Access),
    ("tok_type", "it", TokenUse::Id),
    ("tok_type", "rt", TokenUse::Refresh),
    ("tok_type", "rjt", TokenUse::Refresh),
    ("drn", "ds", TokenUse::Access),
    ("drn", "dsr", TokenUse::Refresh),
    ("tty", "at", TokenUse::Access),
    ("tty", "it", TokenUse::Id),
];

/// Media types of other JWTs, without hyphens and `+jwt`: some are signed by the issuer of access tokens and are for
/// the same audience, as introspection responses (RFC 9701) are.
const MESSAGES: [&str; 10] = [
    "dpop",
    "oauthauthzreq",
    "tokenintrospection",
    "entitystatement",
    "kb",
    "jwkset",
    "clientauthentication",
    "oauthclientattestation",
    "oauthclientattestationpop",
    "globaltokenrevocation",
];

/// Where RFC 8693 section 3 names token types.
const URN: &str = "urn:ietf:params:oauth:token-type:";

impl TokenUse {
    /// The use that the header's `typ` and the claims name; one that is not for access prevails. `None`: a token
    /// that does not say, or not in words that are known.
    #[must_use]
    pub fn named(header_type: Option<&str>, claims: &ClaimSet) -> Option<Self> {
        Self::mark(header_type, claims).map(|(named, _)| named)
    }

    /// As [`Self::named`], with the place of the mark.
    #[must_use]
    pub fn mark(header_type: Option<&str>, claims: &ClaimSet) -> Option<(Self, &'static str)> {
        let abbreviated = ABBREVIATED.iter().filter_map(|(claim, word, means)| {
            let written = claims.get(claim)?;
            written.as_str().is_some_and(|text| text.eq_ignore_ascii_case(word)).then_some((*means, *claim))
        });
        let in_claims = CLAIMS.iter().filter_map(|claim| Some((Self::of_claim(&claims.get(claim)?)?, *claim)));
        let events = Self::has_events(claims).then_some((Self::Message, "events"));
        let header = header_type.and_then(Self::of_word).map(|named| (named, "`typ` of the header"));
        let named = header.into_iter().chain(in_claims).chain(abbreviated).chain(events);
        named.max_by_key(|(named, _)| *named != Self::Access)
    }

    fn of_claim(claim: &Value) -> Option<Self> {
        match claim {
            Value::String(word) => Self::of_word(word),
            Value::Array(words) => {
                let words = words.iter().filter_map(|word| Self::of_word(word.as_str()?));
                words.max_by_key(|named| *named != Self::Access)
            }
            _ => None,
        }
    }

    /// The use that one word names, however it is spelled: `Refresh`, `refresh_token`, `refreshToken`,
    /// `rt+jwt`, `urn:ietf:params:oauth:token-type:refresh_token`.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        let lower = word.to_ascii_lowercase();
        let lower = lower.strip_prefix("application/").or_else(|| lower.strip_prefix(URN)).unwrap_or(&lower);
        let bare = lower.strip_suffix("+jwt").unwrap_or(lower).replace(['-', '_', ' '], "");
        Some(match bare.strip_suffix("token").unwrap_or(&bare) {
            "access" => Self::Access,
            "id" | "serializedid" => Self::Id,
            "refresh" | "offline" => Self::Refresh,
            "logout" | "secevent" | "initialaccess" | "registrationaccess" => Self::Message,
            "rt" if lower.ends_with("+jwt") => Self::Refresh,
            "at" if lower.ends_with("+jwt") => Self::Access,
            other if lower.ends_with("+jwt") && MESSAGES.contains(&other) => Self::Message,
            _ => return None,
        })
    }

    /// Whether claims report events (RFC 8417 section 2.2): `events` is an object whose names are URIs.
    fn has_events(claims: &ClaimSet) -> bool {
        let Some(Value::Object(events)) = claims.get("events") else { return false };
        events.iter().any(|(uri, event)| uri.contains(':') && event.is_object())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_way_to_name_a_use_is_known() {
        let check = |header: Option<&str>, claims: Value, expected: Option<TokenUse>| {
            assert_eq!(TokenUse::named(header, &ClaimSet::from(claims.clone())), expected, "{header:?} {claims}");
        };
        for word in ["refresh", "Refresh", "refresh_token", "refreshToken", "refresh-token", "Offline", "rt+jwt"] {
            check(None, json!({"token_use": word}), Some(TokenUse::Refresh));
            check(Some(word), json!({}), Some(TokenUse::Refresh));
            check(Some("JWT"), json!({"typ": "Bearer", "type": [word]}), Some(TokenUse::Refresh));
        }
        for word in ["ID", "id", "id_token", "IdToken", "urn:ietf:params:oauth:token-type:id_token", "Serialized-ID"] {
            check(Some("at+jwt"), json!({"typ": word}), Some(TokenUse::Id));
        }
        for word in [
            "Logout",
            "logout+jwt",
            "application/secevent+jwt",
            "RegistrationAccessToken",
            "dpop+jwt",
            "application/token-introspection+jwt",
            "oauth-authz-req+jwt",
        ] {
            check(None, json!({"typ": word}), Some(TokenUse::Message));
        }
        check(None, json!({"events": {"https://schemas.example/event": {}}}), Some(TokenUse::Message));
        check(None, json!({"events": ["concert"]}), None);
        check(None, json!({"tok_type": "RT"}), Some(TokenUse::Refresh));
        check(None, json!({"drn": "DSR"}), Some(TokenUse::Refresh));
        check(None, json!({"type": "it"}), None);
        check(None, json!({"tty": "it"}), Some(TokenUse::Id));
        check(None, json!({"tty": "at"}), Some(TokenUse::Access));
        check(None, json!({"token_use": "access", "typ": "ID"}), Some(TokenUse::Id));
        for word in
            ["access", "access_token", "access-token", "at+jwt", "urn:ietf:params:oauth:token-type:access_token"]
        {
            check(None, json!({"token_type": word}), Some(TokenUse::Access));
        }
        for word in ["Bearer", "DPoP", "sliding", "JWT", "app", "", "valid", "identity", "token"] {
            check(Some("JWT"), json!({"typ": word, "token_use": 1}), None);
        }
    }
}
