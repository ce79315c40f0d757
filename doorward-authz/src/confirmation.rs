//! The binding of a token: the `cnf` claim (RFC 7800 section 3.1), and its thumbprints.

use std::fmt;

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use super::claims::ClaimSet;
use super::refusal::{Shown, type_of};

/// A SHA-256 digest that names a key (RFC 7638) or a certificate (RFC 8705 section 3.1).
#[derive(Clone, Copy, Eq, Hash, PartialEq)]
pub struct Thumbprint([u8; 32]);

impl Thumbprint {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_digest(&digest::digest(&digest::SHA256, bytes))
    }

    /// Takes a SHA-256.
    pub(crate) fn from_digest(digest: &digest::Digest) -> Self {
        let mut thumbprint = [0; 32];
        thumbprint.copy_from_slice(digest.as_ref());
        Self(thumbprint)
    }

    /// Reads the 43 characters of base64url of its form in a token.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok().map(Self)
    }

    /// Reads 64 hexadecimal digits, as Envoy writes it.
    #[must_use]
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let mut thumbprint = [0; 32];
        if text.len() != 64 {
            return None;
        }
        for (byte, pair) in thumbprint.iter_mut().zip(text.chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok().filter(|pair| !pair.contains('+'))?, 16).ok()?;
        }
        Some(Self(thumbprint))
    }

    #[cfg(test)]
    pub(crate) fn hex(&self) -> String {
        use std::fmt::Write as _;
        self.0.iter().fold(String::new(), |mut text, byte| {
            write!(text, "{byte:02x}").unwrap();
            text
        })
    }

    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// In the form of tokens.
impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The keys and certificates that the sender of a bound token must prove to have: all of them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Confirmation {
    /// `jkt`: the private key of this public one (RFC 9449 section 6.1).
    pub key: Option<Thumbprint>,
    /// `x5t#S256`: the private key of this certificate (RFC 8705 section 3.1).
    pub certificate: Option<Thumbprint>,
    /// The reason why the binding cannot be proved here at all.
    pub fault: Option<Box<str>>,
}

impl Confirmation {
    /// Reads `cnf`; `None` for a bearer token, which has no `cnf`.
    ///
    /// RFC 7800 section 3.1 allows a receiver to ignore members that it does not understand: then any holder could use
    /// the token, which the issuer wanted to prevent. So an unknown member is a fault.
    #[must_use]
    pub fn read(claims: &ClaimSet) -> Option<Self> {
        let members = match claims.get("cnf")? {
            Value::Null => return None,
            Value::Object(members) => members,
            other => return Some(Self::faulty(format!("`cnf` is {}; it must be an object", type_of(&other)))),
        };
        let mut read = Self::default();
        for (name, value) in members {
            let place = match name.as_str() {
                "jkt" => &mut read.key,
                "x5t#S256" => &mut read.certificate,
                _ => {
                    return Some(Self::faulty(format!(
                        "`cnf` has {}; only `jkt` and `x5t#S256` can be proved here",
                        Shown(&name)
                    )));
                }
            };
            *place = value.as_str().and_then(Thumbprint::parse);
            if place.is_none() {
                return Some(Self::faulty(format!("`cnf.{name}` is not a SHA-256 thumbprint in base64url")));
            }
        }
        if read == Self::default() {
            return Some(Self::faulty("`cnf` is empty".to_owned()));
        }
        Some(read)
    }

    fn faulty(fault: String) -> Self {
        Self { fault: Some(fault.into()), ..Self::default() }
    }

    /// Its memory in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.fault.as_ref().map_or(0, |fault| fault.len())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const JKT: &str = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"; // RFC 9449 section 6.1.

    #[track_caller]
    fn check(cnf: Value, expected: Option<(Option<&str>, Option<&str>, bool)>) {
        let read = Confirmation::read(&ClaimSet::from(json!({"cnf": cnf})));
        let text = |thumbprint: Option<Thumbprint>| thumbprint.map(|thumbprint| thumbprint.to_string());
        let read = read.map(|read| (text(read.key), text(read.certificate), read.fault.is_some()));
        let expected =
            expected.map(|(key, certificate, fault)| (key.map(str::to_owned), certificate.map(str::to_owned), fault));
        assert_eq!(read, expected, "{cnf}");
    }

    #[test]
    fn an_unprovable_binding_is_a_fault() {
        let x5t = "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg2"; // RFC 8705 section 3.1.
        assert!(Thumbprint::parse(x5t).is_none(), "its last character has trailing bits");
        let x5t = "bwcK0esc3ACC3DB2Y5_lESsXE8o9ltc05O89jdN-dg0";
        check(json!({"jkt": JKT}), Some((Some(JKT), None, false)));
        check(json!({"x5t#S256": x5t}), Some((None, Some(x5t), false)));
        check(json!({"jkt": JKT, "x5t#S256": x5t}), Some((Some(JKT), Some(x5t), false)));
        check(json!(null), None);
        for foreign in [
            json!({}),
            json!([]),
            json!("x"),
            json!(1),
            json!({"jwk": {}}),
            json!({"kid": "k"}),
            json!({"jkt": JKT, "kid": "k"}),
            json!({"jkt": null}),
            json!({"jkt": [JKT]}),
            json!({"jkt": format!("{JKT}=")}),
            json!({"jkt": &JKT[1..]}),
            json!({"x5t#S256": ""}),
            json!({"x5t#s256": x5t}),
        ] {
            check(foreign, Some((None, None, true)));
        }
        assert_eq!(Confirmation::read(&ClaimSet::from(json!({}))), None);
    }

    #[test]
    fn a_thumbprint_in_hex_is_the_same() {
        let thumbprint = Thumbprint::of(b"certificate");
        let hex = thumbprint.hex().to_uppercase();
        assert_eq!(Thumbprint::from_hex(hex.as_bytes()), Some(thumbprint));
        assert_eq!(Thumbprint::parse(&thumbprint.to_string()), Some(thumbprint));
        for bad in [&hex[1..], &format!("+{}", &hex[1..]), &format!("g{}", &hex[1..]), &format!("{hex}0")] {
            assert_eq!(Thumbprint::from_hex(bad.as_bytes()), None, "{bad}");
        }
    }
}
