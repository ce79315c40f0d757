//! TLS for the TCP listeners: certificates that are replaced while connections are served.

use std::io;
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::listen::Stream;
use crate::config;

/// The listeners' TLS as last read from the files; a change does not affect established
/// connections.
pub(crate) struct Tls {
    files: config::Tls,
    current: ArcSwap<ServerConfig>,
}

impl Tls {
    pub(super) fn load(files: &config::Tls) -> anyhow::Result<Self> {
        Ok(Self { files: files.clone(), current: ArcSwap::new(Arc::new(read(files)?)) })
    }

    /// Reads the files again; nothing changes until [`Self::put_in_force`].
    pub(super) fn read_again(&self) -> anyhow::Result<Arc<ServerConfig>> {
        Ok(Arc::new(read(&self.files)?))
    }

    pub(super) fn put_in_force(&self, config: Arc<ServerConfig>) {
        self.current.store(config);
    }

    /// Accepts a connection with the current certificate.
    pub(super) async fn accept(&self, stream: Box<dyn Stream>) -> io::Result<TlsStream<Box<dyn Stream>>> {
        TlsAcceptor::from(self.current.load_full()).accept(stream).await
    }
}

fn read(files: &config::Tls) -> anyhow::Result<ServerConfig> {
    let certificates = certificates(&files.cert_file).context("listen.tls.cert_file")?;
    let key = PrivateKeyDer::from_pem_file(&files.key_file)
        .with_context(|| format!("listen.tls.key_file: read {}", files.key_file.display()))?;
    let builder = ServerConfig::builder();
    let builder = match &files.client_ca_file {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for certificate in self::certificates(file).context("listen.tls.client_ca_file")? {
                roots.add(certificate).context("listen.tls.client_ca_file")?;
            }
            builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder(Arc::new(roots)).build().context("listen.tls.client_ca_file")?,
            )
        }
    };
    let mut config =
        builder.with_single_cert(certificates, key).context("listen.tls: the key does not match the certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(file: &std::path::Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || format!("read {}", file.display());
    let found: Vec<_> =
        CertificateDer::pem_file_iter(file).with_context(read)?.collect::<Result<_, _>>().with_context(read)?;
    anyhow::ensure!(!found.is_empty(), "{}: the file has no certificate", file.display());
    Ok(found)
}
