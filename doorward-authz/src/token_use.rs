//! The declared use of a token: the list of marks by which issuers and libraries distinguish their tokens.

use serde_json::Value;

use super::claims::ClaimSet;

/// The use that a token declares.
///
/// Issuers sign ID tokens, refresh tokens and messages between servers with the keys of their access tokens; one of
/// these must not be accepted as another.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum TokenUse {
    Access,
    Id,
    Refresh,
    /// A logout token, a security event, a registration: for servers, never for access.
    Message,
}

/// A claim that declares a use, without case and separators: `tokenUse` and `TOKEN_USE` are `tokenuse`.
struct Claim {
    name: &'static str,
    /// Whether the claim is about tokens alone. In a claim with other meanings, a value counts only if it names a
    /// token.
    of_tokens: bool,
    /// Abbreviations that mean a use in this claim only.
    abbreviated: &'static [(&'static str, TokenUse)],
}

const fn claim(name: &'static str) -> Claim {
    Claim { name, of_tokens: true, abbreviated: &[] }
}

const fn vague(name: &'static str) -> Claim {
    Claim { of_tokens: false, ..claim(name) }
}

const fn abbreviating(name: &'static str, abbreviated: &'static [(&'static str, TokenUse)]) -> Claim {
    Claim { abbreviated, ..claim(name) }
}

/// `typ` of Keycloak, `token_use` of Cognito, `token_type` of SimpleJWT and RFC 7662, `type` of Flask, `tokenName` of
/// ForgeRock, `tokenType` of Casdoor, `purpose` of Curity, `tok_type` of Oracle, `tty` of FusionAuth, `drn` of Descope.
const CLAIMS: [Claim; 18] = [
    claim("typ"),
    claim("type"),
    claim("use"),
    claim("tokenuse"),
    claim("tokenusage"),
    claim("tokentype"),
    claim("tokentyp"),
    claim("tokenname"),
    claim("tokenkind"),
    claim("tokencategory"),
    claim("tokenpurpose"),
    claim("purpose"),
    vague("kind"),
    vague("category"),
    vague("usage"),
    abbreviating("toktype", &[("at", TokenUse::Access), ("it", TokenUse::Id), ("rjt", TokenUse::Refresh)]),
    abbreviating("tty", &[("at", TokenUse::Access), ("it", TokenUse::Id)]),
    abbreviating("drn", &[("ds", TokenUse::Access), ("dsr", TokenUse::Refresh)]),
];

/// Claims that are `true` in refresh tokens.
const FLAGS: [&str; 4] = ["refresh", "isrefresh", "refreshtoken", "isrefreshtoken"];

/// The claims that mark a refresh token by their only scope.
const SCOPES: [&str; 3] = ["scope", "scopes", "scp"];

/// The claim with the id of the access token to which a refresh token of Spring Security belongs.
const ACCESS_TOKEN_ID: &str = "ati";

/// Media types of other JWTs, without hyphens and `+jwt`: some have the issuer and the audience of access tokens, such
/// as introspection responses (RFC 9701).
const MESSAGES: [&str; 11] = [
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
    "statuslist",
];

/// The prefix of token types in RFC 8693 section 3.
const URN: &str = "urn:ietf:params:oauth:token-type:";

impl TokenUse {
    /// The use that the header's `typ` and the claims name; a use other than access prevails. `None`: the token has no
    /// recognised mark.
    #[must_use]
    pub fn named(header_type: Option<&str>, claims: &ClaimSet) -> Option<Self> {
        Self::mark(header_type, claims).map(|(named, _)| named)
    }

    /// [`Self::named`] with the place of the mark.
    #[must_use]
    pub fn mark<'a>(header_type: Option<&str>, claims: &'a ClaimSet) -> Option<(Self, &'a str)> {
        let in_claims = claims.names().filter_map(|name| Self::of_member(name, claims));
        let header = header_type.and_then(Self::of_value).map(|named| (named, "`typ` of the header"));
        header.into_iter().chain(in_claims).max_by_key(|(named, _)| *named != Self::Access)
    }

    /// The use that one claim declares.
    fn of_member<'a>(name: &'a str, claims: &ClaimSet) -> Option<(Self, &'a str)> {
        let may_be_bare = name.bytes().find(|b| !is_separator(*b)).is_some_and(|first| LETTERS & letter(first) != 0);
        let is = |bare: &str| may_be_bare && is_bare(name, bare);
        if let Some(claim) = CLAIMS.iter().filter(|_| may_be_bare).find(|claim| is(claim.name)) {
            return Some((claim.read(&claims.get(name)?)?, name));
        }
        let named = if FLAGS.into_iter().any(is) {
            (claims.get(name)? == true).then_some(Self::Refresh)
        } else if SCOPES.contains(&name) {
            only_value(&claims.get(name)?).filter(|word| is_refresh_scope(word)).map(|_| Self::Refresh)
        } else if name == ACCESS_TOKEN_ID {
            claims.get(name)?.is_string().then_some(Self::Refresh)
        } else {
            (name == "events" && reports_events(&claims.get(name)?)).then_some(Self::Message)
        };
        Some((named?, name))
    }

    /// The use that one value names, in any spelling: `Refresh`, `refresh_token`, `refreshToken`, `refreshJwt`,
    /// `rt+jwt`, `urn:ietf:params:oauth:token-type:refresh_token`.
    #[must_use]
    pub fn of_value(word: &str) -> Option<Self> {
        if word == "JWT" {
            return None; // A value of most headers, and of every kind of token (RFC 7519 section 5.1).
        }
        let lower = word.trim().to_ascii_lowercase();
        let lower = lower.strip_prefix("application/").or_else(|| lower.strip_prefix(URN)).unwrap_or(&lower);
        let bare = lower.strip_suffix("+jwt").unwrap_or(lower).replace(['-', '_', ' '], "");
        let bare = bare.strip_suffix("token").unwrap_or(&bare);
        Some(match bare {
            "access" => Self::Access,
            "id" | "serializedid" => Self::Id,
            "refresh" | "offline" | "rt" => Self::Refresh,
            "logout" | "secevent" | "initialaccess" | "registrationaccess" => Self::Message,
            "at" if lower.ends_with("+jwt") => Self::Access,
            other if lower.ends_with("+jwt") && MESSAGES.contains(&other) => Self::Message,
            other => {
                let affixes = ["jwt", "token"];
                let inner = affixes.iter().find_map(|affix| other.strip_suffix(affix).or(other.strip_prefix(affix)));
                return (inner == Some("refresh")).then_some(Self::Refresh);
            }
        })
    }
}

impl Claim {
    fn read(&self, value: &Value) -> Option<TokenUse> {
        match value {
            Value::String(word) => self.of_value(word),
            Value::Array(words) => {
                let words = words.iter().filter_map(|word| self.of_value(word.as_str()?));
                words.max_by_key(|named| *named != TokenUse::Access)
            }
            _ => None,
        }
    }

    fn of_value(&self, word: &str) -> Option<TokenUse> {
        let bare = word.trim();
        let abbreviated = self.abbreviated.iter().find(|(known, _)| bare.eq_ignore_ascii_case(known));
        if let Some((_, named)) = abbreviated {
            return Some(*named);
        }
        let named = TokenUse::of_value(bare)?;
        let contains_token = || bare.to_ascii_lowercase().contains("token");
        (self.of_tokens || named == TokenUse::Refresh && !bare.eq_ignore_ascii_case("offline") || contains_token())
            .then_some(named)
    }
}

/// Whether a name equals this one apart from letter case and separators.
fn is_bare(name: &str, bare: &str) -> bool {
    // Most names belong to other claims, and are longer or shorter.
    (bare.len()..=bare.len() + 4).contains(&name.len())
        && name.bytes().filter(|b| !is_separator(*b)).map(|b| b.to_ascii_lowercase()).eq(bare.bytes())
}

const fn is_separator(byte: u8) -> bool {
    matches!(byte, b'_' | b'-' | b'.' | b' ')
}

/// The first letters of [`CLAIMS`] and [`FLAGS`], a bit each: most claims begin with another and are not compared.
const LETTERS: u32 = {
    let (mut letters, mut at) = (0, 0);
    while at < CLAIMS.len() {
        letters |= letter(CLAIMS[at].name.as_bytes()[0]);
        at += 1;
    }
    at = 0;
    while at < FLAGS.len() {
        letters |= letter(FLAGS[at].as_bytes()[0]);
        at += 1;
    }
    letters
};

/// The bit of a letter, in either case; of another byte, none.
const fn letter(byte: u8) -> u32 {
    match byte.to_ascii_lowercase() {
        letter @ b'a'..=b'z' => 1 << (letter - b'a'),
        _ => 0,
    }
}

/// The only item of a text or a list.
fn only_value(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => {
            let mut words = text.split_ascii_whitespace();
            words.next().filter(|_| words.next().is_none()).map(str::to_owned)
        }
        Value::Array(items) => match items.as_slice() {
            [Value::String(word)] => Some(word.trim().to_owned()),
            _ => None,
        },
        _ => None,
    }
}

/// `refresh_token` or `ROLE_REFRESH_TOKEN`. Beside other scopes it is a scope that the client requested (Salesforce),
/// and `refresh` alone may be an API's own scope.
fn is_refresh_scope(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    is_bare(word.strip_prefix("role_").unwrap_or(&word), "refreshtoken")
}

/// Whether a claim reports events (RFC 8417 section 2.2): their names are URIs.
fn reports_events(events: &Value) -> bool {
    match events {
        Value::Object(events) => events.keys().any(|uri| uri.contains(':')),
        Value::Array(events) => {
            events.iter().filter_map(Value::as_str).any(|uri| uri.contains("://schemas.openid.net/"))
        }
        _ => false,
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
            "statuslist+jwt",
        ] {
            check(None, json!({"typ": word}), Some(TokenUse::Message));
        }
        check(None, json!({"events": {"https://schemas.example/event": {}}}), Some(TokenUse::Message));
        check(None, json!({"events": ["concert"]}), None);
        check(None, json!({"events": {"concert": true}}), None);
        check(None, json!({"events": {"https://schemas.example/event": true}}), Some(TokenUse::Message));
        check(None, json!({"events": {"https://schemas.example/event": null}}), Some(TokenUse::Message));
        check(None, json!({"events": ["http://schemas.openid.net/event/backchannel-logout"]}), Some(TokenUse::Message));
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
        for name in [
            "token_kind",
            "tokenKind",
            "TokenType",
            "TOKEN-TYPE",
            "token.type",
            "Typ",
            "category",
            "kind",
            "usage",
            "token_usage",
            "tok_type",
            "tty",
            "drn",
            "Token_Purpose",
        ] {
            for word in
                ["refresh", "refresh_token", " Refresh ", "RT", "rt", "refreshJwt", "jwt_refresh", "refresh-jwt"]
            {
                check(None, json!({name: word}), Some(TokenUse::Refresh));
                check(Some("at+jwt"), json!({name: [word]}), Some(TokenUse::Refresh));
            }
            check(None, json!({name: "id_token"}), Some(TokenUse::Id));
        }
        for name in ["refresh", "is_refresh", "isRefresh", "refresh_token", "isRefreshToken"] {
            check(None, json!({name: true}), Some(TokenUse::Refresh));
            check(None, json!({name: false}), None);
            check(None, json!({name: "abc"}), None);
        }
        for scope in
            [json!("refresh_token"), json!("REFRESH_TOKEN"), json!(["ROLE_REFRESH_TOKEN"]), json!(" refreshToken ")]
        {
            check(None, json!({"scope": scope}), Some(TokenUse::Refresh));
            check(None, json!({"scopes": scope}), Some(TokenUse::Refresh));
        }
        check(None, json!({"ati": "5e1f", "jti": "x"}), Some(TokenUse::Refresh));
        // Claims of ordinary access tokens.
        for claims in [
            json!({"scp": "api refresh_token openid"}),
            json!({"scope": "offline_access"}),
            json!({"scope": "refresh"}),
            json!({"category": "offline", "kind": "id", "usage": "logout"}),
            json!({"kind": "user", "category": "books", "usage": "metered"}),
            json!({"ati": 5}),
            json!({"refresh_token_id": true, "ref_type": "rt", "reuse": "rt"}),
            json!({"type": "jwt", "use": "sig", "authenticationType": "refresh"}),
            json!({"token_type": "Bearer", "typ": "JWT", "type": "jwt_id"}),
        ] {
            check(Some("JWT"), claims, None);
        }
        for word in ["Bearer", "DPoP", "sliding", "JWT", "app", "", "valid", "identity", "token"] {
            check(Some("JWT"), json!({"typ": word, "token_use": 1}), None);
        }
    }
}
