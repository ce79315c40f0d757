//! TLS for the TCP listeners: certificates that are replaced while connections are served.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use arc_swap::ArcSwap;
use futures_util::stream::{Stream, StreamExt, unfold};
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::debug;

use crate::config;

/// The listeners' TLS as the files last said; who has shaken hands is not affected by a change.
pub(super) struct Tls {
    files: config::Tls,
    current: ArcSwap<ServerConfig>,
}

/// Handshakes at once: more wait in the listener's backlog.
const MAX_HANDSHAKES: usize = 256;
/// Longer than any honest client takes.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

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
        builder.with_single_cert(certificates, key).context("listen.tls: the key does not fit the certificate")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(file: &std::path::Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let read = || format!("read {}", file.display());
    let found: Vec<_> =
        CertificateDer::pem_file_iter(file).with_context(read)?.collect::<Result<_, _>>().with_context(read)?;
    anyhow::ensure!(!found.is_empty(), "{}: no certificate in it", file.display());
    Ok(found)
}

/// A listener whose connections have shaken hands; a slow or hostile handshake holds up nobody else.
pub(super) struct TlsListener {
    address: SocketAddr,
    accepted: Pin<Box<dyn Stream<Item = (TlsStream<TcpStream>, SocketAddr)> + Send>>,
}

impl TlsListener {
    pub(super) fn new(listener: TcpListener, address: SocketAddr, tls: Arc<Tls>) -> Self {
        let accepted = unfold((listener, JoinSet::new()), move |(listener, mut handshakes)| {
            let tls = tls.clone();
            async move {
                loop {
                    tokio::select! {
                        Ok((stream, peer)) = listener.accept(), if handshakes.len() < MAX_HANDSHAKES => {
                            let _ = stream.set_nodelay(true); // A slower connection is still one.
                            let handshake = TlsAcceptor::from(tls.current.load_full()).accept(stream);
                            handshakes.spawn(async move { (tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await, peer) });
                        }
                        Some(done) = handshakes.join_next() => match done {
                            Ok((Ok(Ok(stream)), peer)) => return Some(((stream, peer), (listener, handshakes))),
                            Ok((Ok(Err(error)), _)) => debug!(%error, "tls handshake failed"),
                            Ok((Err(_), _)) | Err(_) => debug!("tls handshake timed out"),
                        }
                    }
                }
            }
        });
        Self { address, accepted: Box::pin(accepted) }
    }

    /// As tonic takes connections.
    pub(super) fn into_stream(self) -> impl Stream<Item = io::Result<TlsStream<TcpStream>>> {
        self.accepted.map(|(stream, _)| Ok(stream))
    }
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.accepted.next().await {
            Some(connection) => connection,
            None => std::future::pending().await, // The stream never ends.
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        Ok(self.address)
    }
}
