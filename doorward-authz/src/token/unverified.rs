//! A compact JWS, read strictly.
//!
//! Stricter than RFC 7515 where leniency would give one token two readings.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::BearerToken;
use crate::claims::ClaimSet;
use crate::denial::Denial;
use crate::jwks::{Algorithm, Jwks, Key, algorithm_name, algorithm_named, is_hmac};
use crate::refusal::{List, Refusal, Shown, type_of};
use crate::revocation::TargetId;

/// A token before its signature is verified: used only to choose the key.
#[derive(Clone)]
pub struct UnverifiedToken<'a> {
    text: &'a str,
    pub(super) signing_input: &'a str,
    pub(super) signature: Vec<u8>,
    pub(super) header: Header,
    pub(super) claims: ClaimSet,
}

/// The members of a JOSE header that Doorward reads; the others are ignored, `jwk`, `jku`, `x5u` and `x5c` on
/// purpose: a token must not supply its own key.
#[derive(Clone, Debug)]
pub struct Header {
    pub algorithm: String,
    pub key_id: Option<String>,
    pub token_type: Option<String>,
    /// Whether it has a `nonce`, which Microsoft puts into tokens that only Microsoft's own services can verify.
    pub has_nonce: bool,
}

impl<'a> UnverifiedToken<'a> {
    /// Reads a compact JWS (RFC 7515 section 7.1) with a JSON object as payload.
    pub fn parse(token: BearerToken<'a>) -> Result<Self, Denial> {
        Self::parse_with_header(token).map(|(token, _)| token)
    }

    /// [`Self::parse`] with all members of the header, for a message that supplies its own key.
    pub(crate) fn parse_with_header(token: BearerToken<'a>) -> Result<(Self, ClaimSet), Denial> {
        let text = token.as_str();
        let (signing_input, signature) = text.rsplit_once('.').ok_or(Denial::MalformedToken)?;
        let (header, payload) = signing_input.split_once('.').ok_or(Denial::MalformedToken)?;
        if payload.contains('.') {
            return Err(Denial::MalformedToken); // Five parts are a JWE; other numbers are invalid.
        }
        let members = ClaimSet::parse(decode(header)?)?;
        let header = read_header(&members)?;
        let claims = ClaimSet::parse(decode(payload)?)?;
        let signature = decode(signature)?;
        Ok((Self { text, signing_input, signature, header, claims }, members))
    }

    #[must_use]
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The `iss` claim. For a JWT-SVID without one, the trust domain of its `sub` (JWT-SVID section 3: the
    /// domain determines the keys).
    pub fn unverified_issuer(&self) -> Result<String, Refusal> {
        match self.claims.get("iss") {
            Some(Value::String(issuer)) => Ok(issuer),
            Some(other) => Err(Refusal::invalid("iss", type_of(&other), "text")),
            None => trust_domain(&self.claims).ok_or_else(|| Refusal::missing("iss", "the URL of a configured issuer")),
        }
    }

    /// All claims.
    #[must_use]
    pub const fn unverified_claims(&self) -> &ClaimSet {
        &self.claims
    }

    /// The audiences in `aud`.
    pub fn unverified_audiences(&self) -> Vec<String> {
        let named = match self.claims.get("aud") {
            Some(Value::Array(many)) => many,
            one => one.into_iter().collect(),
        };
        let text = |audience| if let Value::String(text) = audience { Some(text) } else { None };
        named.into_iter().filter_map(text).collect()
    }

    /// Finds the key of the signature: the only place that checks signatures.
    pub(crate) fn check_signature<'k>(
        &self,
        keys: Option<&'k Jwks>,
        algorithms: &[Algorithm],
    ) -> Result<&'k Key, Refusal> {
        let keys = keys.ok_or(Denial::KeysUnavailable)?;
        let algorithm = self.algorithm().filter(|algorithm| algorithms.contains(algorithm)).ok_or_else(|| {
            let (found, names) = (Shown(&self.header.algorithm), algorithms.iter().copied().map(algorithm_name));
            let found = format_args!("`alg` is {found}; accepted (`algorithms`): {}", List(names));
            Refusal::new(Denial::AlgorithmNotAllowed, found)
        })?;
        let kid = self.header.key_id.as_deref().filter(|_| !is_hmac(algorithm));
        keys.candidates(kid, algorithm)
            .map_err(|denial| self.unfitting(keys, denial))?
            .into_iter()
            .find(|key| self.is_signed_by(key))
            // A key with this id may have been published since.
            .ok_or_else(|| {
                if keys.names(kid) { Denial::BadSignature.into() } else { self.unfitting(keys, Denial::UnknownKey) }
            })
    }

    /// The algorithm in its header.
    pub(crate) fn algorithm(&self) -> Option<Algorithm> {
        algorithm_named(&self.header.algorithm).or((self.header.algorithm == "Ed25519").then_some(Algorithm::EdDSA)) // RFC 9864.
    }

    /// Whether this key verifies its signature.
    pub(crate) fn is_signed_by(&self, key: &Key) -> bool {
        key.verifies(self.signing_input, &self.signature)
    }

    /// The refusal of a token if no key of the set has its `kid` and `alg`.
    fn unfitting(&self, keys: &Jwks, denial: Denial) -> Refusal {
        let kid = self.header.key_id.as_deref().map_or("missing".to_owned(), |kid| Shown(kid).to_string());
        let (algorithm, usable) = (Shown(&self.header.algorithm), keys.len());
        let found = format_args!("`kid` is {kid}, `alg` is {algorithm}; none of the {usable} usable keys has both");
        Refusal::new(denial, found)
    }

    /// The id of a token without `jti`: never a digest of the whole text, because a signature can have several
    /// valid forms.
    pub(crate) fn digest(&self) -> TargetId {
        TargetId::digest(self.signing_input.as_bytes())
    }

    /// The digest of its whole text, signature included: some services name revoked tokens by it.
    pub(super) fn text_digest(&self) -> TargetId {
        TargetId::digest(self.text.as_bytes())
    }

    /// The id of the token, if its signature is valid.
    #[must_use]
    pub fn unverified_id(&self) -> TargetId {
        match self.claims.get("jti") {
            Some(Value::String(id)) => TargetId::new(&id),
            _ => self.digest(),
        }
    }

    /// The claims, after the signature was verified.
    pub(crate) fn into_claims(self) -> ClaimSet {
        self.claims
    }

    /// Its `typ` as a media type in lower case; a token without one is a plain `jwt` (RFC 7519 section 5.1).
    pub(crate) fn token_type(&self) -> String {
        media_type(self.header.token_type.as_deref().unwrap_or("JWT"))
    }
}

/// `spiffe://DOMAIN` of a `sub` that is a SPIFFE ID.
pub(super) fn trust_domain(claims: &ClaimSet) -> Option<String> {
    let Some(Value::String(id)) = claims.get("sub") else { return None };
    let rest = id.strip_prefix(SPIFFE)?;
    let domain = rest.split('/').next().filter(|domain| !domain.is_empty())?;
    Some(format!("{SPIFFE}{domain}"))
}

/// The scheme of SPIFFE IDs and of trust domains (SPIFFE ID section 2).
pub(super) const SPIFFE: &str = "spiffe://";

fn decode(segment: &str) -> Result<Vec<u8>, Denial> {
    // The decoder refuses padding, white space, other alphabets and non-zero trailing bits.
    URL_SAFE_NO_PAD.decode(segment).map_err(|_| Denial::MalformedToken)
}

fn read_header(header: &ClaimSet) -> Result<Header, Denial> {
    let text = |name: &str| match header.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(Denial::MalformedToken),
    };
    // `crit` names extensions that a verifier must implement (RFC 7515 section 4.1.11), and `b64` changes the
    // signing input and requires `crit` (RFC 7797 section 6); `enc` and `zip` belong to encrypted tokens, `cty:
    // JWT` to nested ones.
    let foreign = ["crit", "b64", "enc", "zip"].iter().any(|name| header.contains_key(name));
    let nested = text("cty")?.is_some_and(|cty| media_type(&cty) == "jwt");
    if foreign || nested {
        return Err(Denial::MalformedToken);
    }
    let algorithm = text("alg")?.ok_or(Denial::MalformedToken)?;
    let has_nonce = header.contains_key("nonce");
    Ok(Header { algorithm, key_id: text("kid")?, token_type: text("typ")?, has_nonce })
}

/// A media type in the form of `typ` and `cty`: case-insensitive, `application/` dropped (RFC 7515 section
/// 4.1.9).
pub(super) fn media_type(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    name.strip_prefix("application/").map(str::to_owned).unwrap_or(name)
}
