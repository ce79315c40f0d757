//! The section `proxy`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

section! {
    /// The trusted statements of the proxy in front about a request: the URI that a DPoP proof must name, and the
    /// client's certificate. A header that is named here must be set or removed by the proxy on every request.
    pub struct ProxyFile {
        /// The scheme that the client wrote: `request`, from Envoy or `X-Forwarded-Proto` of forward-auth; `https`, if
        /// TLS ends before Envoy; or the name of a header such as `x-forwarded-proto`.
        #[schemars(example = "x-forwarded-proto")]
        pub scheme: String = "request".to_owned(),
        /// The host and port that the client wrote: `request`, or the name of a header such as `x-forwarded-host`.
        #[schemars(example = "x-forwarded-host")]
        pub host: String = "request".to_owned(),
        /// The path that the client wrote: `request`, or the name of a header such as `x-envoy-original-path`.
        #[schemars(example = "x-envoy-original-path")]
        pub path: String = "request".to_owned(),
        /// The source of the client's certificate.
        pub client_certificate: ClientCertificateFile = ClientCertificateFile::default(),
    }
}

/// The source of the client's certificate.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, JsonSchema, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClientCertificateFile {
    /// Envoy's ext_authz filter with `include_peer_certificate: true`.
    #[default]
    Connection,
    /// The header `x-forwarded-client-cert` with one element: Envoy's `forward_client_cert_details: SANITIZE_SET`, or
    /// behind a gateway that sets it `ALWAYS_FORWARD_ONLY`.
    XForwardedClientCert,
}
