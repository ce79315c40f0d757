//! The client's certificate, from the proxy in front.

use std::borrow::Cow;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::confirmation::Thumbprint;
use super::readings::decode_once;
use super::rule::RequestView;

/// The trusted source of the client's certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CertificateSource {
    /// Envoy's own connection (`source.certificate` of Check, with `include_peer_certificate`).
    Connection,
    /// `x-forwarded-client-cert`, which the proxy in front sets or removes on every request.
    ForwardedHeader,
}

/// Envoy's header for it.
pub const FORWARDED: &str = "x-forwarded-client-cert";

impl CertificateSource {
    /// The thumbprint of the client's certificate; `Ok(None)` if the client sent none.
    ///
    /// An error describes the fault in Doorward's own words.
    pub fn thumbprint(self, request: &RequestView<'_>) -> Result<Option<Thumbprint>, &'static str> {
        match self {
            Self::Connection if request.certificate.is_empty() => Ok(None),
            Self::Connection => of_pem(request.certificate.as_bytes()).map(Some),
            Self::ForwardedHeader => {
                let mut fields = request.header(FORWARDED);
                let Some(field) = fields.next().filter(|field| !field.is_empty()) else { return Ok(None) };
                if fields.next().is_some() {
                    return Err(SEVERAL);
                }
                forwarded(field)
            }
        }
    }
}

/// No element is certainly the client's: the proxy in front must replace the header, not append to it.
const SEVERAL: &str = "`x-forwarded-client-cert` names more than one certificate";

/// The thumbprint of a certificate in PEM, percent-encoded as Envoy writes it.
fn of_pem(encoded: &[u8]) -> Result<Thumbprint, &'static str> {
    let certificate = CertificateDer::from_pem_slice(&decode_once(encoded));
    certificate.map(|der| Thumbprint::of(&der)).map_err(|_| "the client's certificate is not a certificate in PEM")
}

/// Reads the one element of `x-forwarded-client-cert`: pairs `Key=Value` with `;` between them, in which quotes hide
/// separators. `Hash` is the SHA-256 of the certificate, `Cert` the certificate; where both are there, they must agree:
/// a client whose name a gateway does not escape could write one of them. A gateway that writes `Cert` from a template
/// leaves it empty for a client without a certificate.
fn forwarded(field: &[u8]) -> Result<Option<Thumbprint>, &'static str> {
    let (mut hash, mut certificate) = (None, None);
    for pair in pairs(field)? {
        let Some(at) = pair.iter().position(|b| *b == b'=') else { continue };
        let (name, value) = (&pair[..at], unquoted(&pair[at + 1..]));
        let place = match name.trim_ascii() {
            name if name.eq_ignore_ascii_case(b"hash") => &mut hash,
            name if name.eq_ignore_ascii_case(b"cert") => &mut certificate,
            _ => continue,
        };
        if place.replace(value).is_some() {
            return Err(SEVERAL);
        }
    }
    let hash = hash
        .map(|hash| Thumbprint::from_hex(&hash).ok_or("`Hash` of `x-forwarded-client-cert` is not a SHA-256 in hex"));
    match (hash.transpose()?, certificate) {
        (None, None) => Err("`x-forwarded-client-cert` has neither `Hash` nor `Cert`"),
        (None, Some(certificate)) if certificate.is_empty() => Ok(None),
        (Some(hash), Some(certificate)) if of_pem(&certificate)? != hash => {
            Err("`Hash` of `x-forwarded-client-cert` is not that of `Cert`")
        }
        (Some(hash), _) => Ok(Some(hash)),
        (None, Some(certificate)) => of_pem(&certificate).map(Some),
    }
}

/// The pairs of the only element.
fn pairs(field: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    let (mut pairs, mut start, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, byte) in field.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted => return Err(SEVERAL),
            b';' if !quoted => {
                pairs.push(&field[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    pairs.push(&field[start..]);
    if quoted { Err("`x-forwarded-client-cert` has a quote without an end") } else { Ok(pairs) }
}

fn unquoted(value: &[u8]) -> Cow<'_, [u8]> {
    match value {
        [b'"', inner @ .., b'"'] if inner.contains(&b'\\') => {
            let mut kept = Vec::with_capacity(inner.len());
            let mut bytes = inner.iter();
            while let Some(byte) = bytes.next() {
                kept.push(*if *byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte });
            }
            Cow::Owned(kept)
        }
        [b'"', inner @ .., b'"'] => Cow::Borrowed(inner),
        plain => Cow::Borrowed(plain),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Arbitrary bytes: only their digest counts.
    const PEM: &str = "-----BEGIN%20CERTIFICATE-----%0AMDEy%0A-----END%20CERTIFICATE-----%0A";

    fn of(
        headers: &[(&str, &[u8])],
        certificate: &str,
        source: CertificateSource,
    ) -> Result<Option<Thumbprint>, &'static str> {
        source.thumbprint(&RequestView { headers, certificate, ..RequestView::NOTHING })
    }

    #[test]
    fn the_connection_s_certificate_is_pem() {
        let expected = Thumbprint::of(b"012");
        let source = CertificateSource::Connection;
        assert_eq!(of(&[], PEM, source), Ok(Some(expected)));
        assert_eq!(of(&[], "", source), Ok(None));
        let foreign: &[(&str, &[u8])] = &[(FORWARDED, b"Hash=00")];
        assert_eq!(of(foreign, "", source), Ok(None), "a header is not believed unless it is configured");
        for bad in [
            "x",
            "-----BEGIN%20CERTIFICATE-----",
            &PEM.replace("MDEy", "M!"),
            &PEM.replace("CERTIFICATE", "PRIVATE%20KEY"),
        ] {
            assert!(of(&[], bad, source).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_header_has_one_certificate_or_none() {
        let expected = Thumbprint::of(b"012");
        let hex = expected.hex();
        let tell = |field: &str| of(&[(FORWARDED, field.as_bytes())], "", CertificateSource::ForwardedHeader);
        for good in [
            format!("Hash={hex}"),
            format!("By=spiffe://a;Hash={hex};Subject=\"CN=a, O=\\\"b\\\";c\";URI="),
            format!("hash=\"{hex}\""),
            format!("Cert=\"{PEM}\""),
            format!("Hash={hex};Cert=\"{PEM}\";Chain=\"{PEM}\""),
        ] {
            assert_eq!(tell(&good), Ok(Some(expected)), "{good}");
        }
        for bad in [
            format!("Hash={hex},Hash={hex}"),
            format!("Hash={hex};Hash={hex}"),
            format!("Subject=\"a\\\";Hash={hex}"),
            format!("Subject=\"a;Hash={hex}\""),
            format!("Hash={}", &hex[1..]),
            "Subject=\"CN=a\"".to_owned(),
            "x".to_owned(),
            format!("Cert=\"{}\"", PEM.replace("MDEy", "_")),
            format!("Hash={hex};Cert=\"{}\"", PEM.replace("MDEy", "MDE0")),
            format!("Cert=\"{}\";Hash={hex}", PEM.replace("MDEy", "MDE0")),
            format!("Hash={hex};Cert=\"\""),
            format!("Hash={hex};Cert=x"),
            "Hash=".to_owned(),
        ] {
            assert!(tell(&bad).is_err(), "{bad}");
        }
        for none in ["", "Cert=\"\"", "Subject=\"\";Cert="] {
            assert_eq!(tell(none), Ok(None), "{none}");
        }
        assert_eq!(of(&[], PEM, CertificateSource::ForwardedHeader), Ok(None));
        let twice: &[(&str, &[u8])] = &[(FORWARDED, hex.as_bytes()), (FORWARDED, hex.as_bytes())];
        assert_eq!(of(twice, "", CertificateSource::ForwardedHeader), Err(SEVERAL));
    }
}
