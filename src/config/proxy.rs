//! The trusted statements of the proxy in front.

use super::check::Check;
use super::fault::KeyPath;
use super::file::{ClientCertificateFile, ProxyFile};
use crate::authz::certificate::CertificateSource;
use crate::authz::request_uri::{PartSource, ProxyTrust, SchemeSource};

pub(super) fn proxy(check: &mut Check<'_>, file: &ProxyFile) -> ProxyTrust {
    let at = KeyPath::root().key("proxy");
    let mut part = |name, text: &String| match text.as_str() {
        "request" => PartSource::Request,
        _ => PartSource::Header(check.header(&at.key(name), text)),
    };
    ProxyTrust {
        scheme: match file.scheme.as_str() {
            "https" => SchemeSource::Https,
            _ => SchemeSource::Part(part("scheme", &file.scheme)),
        },
        host: part("host", &file.host),
        path: part("path", &file.path),
        certificate: match file.client_certificate {
            ClientCertificateFile::Connection => CertificateSource::Connection,
            ClientCertificateFile::XForwardedClientCert => CertificateSource::ForwardedHeader,
        },
    }
}
