//! The addresses on which Doorward listens.

use std::net::SocketAddr;
use std::path::PathBuf;

use rustls::InconsistentKeys;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::check::Check;
use super::fault::KeyPath;
use super::file::{ListenFile, TlsFile};

/// The addresses of the process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Listen {
    pub check: CheckAddress,
    pub http: Option<SocketAddr>,
    /// `None`: the routes with an admin key are served on `http`.
    pub admin: Option<SocketAddr>,
    /// In the form of `Origin`.
    pub cors_origins: Vec<String>,
    pub tls: Option<Tls>,
}

/// The address for Envoy's checks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum CheckAddress {
    Tcp(SocketAddr),
    Unix {
        path: PathBuf,
        /// The permissions of the socket.
        mode: u32,
    },
}

/// The files of the listeners' TLS; each existed and had PEM when the configuration was read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    pub client_ca_file: Option<PathBuf>,
}

pub(super) fn listen(check: &mut Check<'_>, file: &ListenFile) -> Listen {
    let at = KeyPath::root().key("listen");
    let mode = socket_mode(check, &at.key("mode"), &file.mode);
    let address = match file.check.strip_prefix("unix:") {
        Some(path) => CheckAddress::Unix { path: socket_path(check, &at.key("check"), path), mode },
        None => CheckAddress::Tcp(socket_address(check, &at.key("check"), &file.check)),
    };
    let http = file.http.as_ref().map(|text| socket_address(check, &at.key("http"), text));
    let admin = file.admin.as_ref().map(|text| socket_address(check, &at.key("admin"), text));
    let tcp = match address {
        CheckAddress::Tcp(address) => Some(address),
        CheckAddress::Unix { .. } => None,
    };
    let taken = |new: Option<SocketAddr>, old: Option<SocketAddr>| new.is_some_and(|new| new.port() != 0) && new == old;
    if taken(http, tcp) {
        check.fault(&at.key("http"), "must be another address than `listen.check`");
    }
    if taken(admin, tcp) || taken(admin, http) {
        check.fault(&at.key("admin"), "must be an address of its own; leave it out to serve it on `listen.http`");
    }
    let tls = file.tls.as_ref().map(|file| tls(check, &at.key("tls"), file));
    let cors_origins = origins(check, &at.key("cors_origins"), &file.cors_origins);
    Listen { check: address, http, admin, cors_origins, tls }
}

/// Checks that each has the form that browsers write (RFC 6454 section 6.2): any other never matches.
fn origins(check: &mut Check<'_>, at: &KeyPath, list: &[String]) -> Vec<String> {
    for (index, text) in list.iter().enumerate() {
        let written = url::Url::parse(text).ok().map(|url| url.origin()).filter(url::Origin::is_tuple);
        if written.is_none_or(|origin| origin.ascii_serialization() != *text) {
            check.fault(&at.index(index), "must be scheme and host as in `https://shop.example.com`, no path, no `*`");
        }
    }
    list.to_vec()
}

fn socket_address(check: &mut Check<'_>, at: &KeyPath, text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| {
        let port = text.rsplit(':').next().and_then(|port| port.parse::<u16>().ok());
        let port = port.filter(|port| *port != 0).unwrap_or(9191);
        check.fault(at, format!("must be an IP address and a port such as `127.0.0.1:{port}` or `0.0.0.0:{port}`"));
        SocketAddr::from(([127, 0, 0, 1], 0))
    })
}

/// The longest name of a socket in Linux, in bytes (`sun_path`, with its final zero).
const MAX_SOCKET_PATH: usize = 107;

fn socket_path(check: &mut Check<'_>, at: &KeyPath, path: &str) -> PathBuf {
    if !path.starts_with('/') || path.ends_with('/') || path.len() > MAX_SOCKET_PATH || path.contains('\0') {
        check.fault(
            at,
            format!(
                "must be `unix:` and the absolute path of a socket, at most {MAX_SOCKET_PATH} bytes, such as `unix:/run/doorward/check.sock`"
            ),
        );
    }
    PathBuf::from(path)
}

fn socket_mode(check: &mut Check<'_>, at: &KeyPath, text: &str) -> u32 {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 && mode & 0o600 == 0o600 && !text.starts_with('+') => mode,
        _ => {
            check.fault(at, "must be permissions in octal that let the owner read and write, such as `0660`");
            0o600
        }
    }
}

fn tls(check: &mut Check<'_>, at: &KeyPath, file: &TlsFile) -> Tls {
    let (cert_file, certificates) = check.pem_file(&at.key("cert_file"), &file.cert_file, "CERTIFICATE");
    let (key_file, key) = check.pem_file(&at.key("key_file"), &file.key_file, "PRIVATE KEY");
    if let Some(fault) = certificates.zip(key).and_then(|(certificates, key)| pair_fault(&certificates, &key)) {
        check.fault(&at.key("key_file"), fault);
    }
    let client_ca_file =
        file.client_ca_file.as_ref().map(|name| check.pem_file(&at.key("client_ca_file"), name, "CERTIFICATE").0);
    Tls { cert_file, key_file, client_ca_file }
}

/// Why this key cannot serve with these certificates, both PEM.
pub(super) fn pair_fault(certificates: &[u8], key: &[u8]) -> Option<String> {
    let Ok(certificates) = CertificateDer::pem_slice_iter(certificates).collect() else {
        return Some("must be the key of `cert_file`, in which a certificate cannot be read".to_owned());
    };
    let Ok(key) = PrivateKeyDer::from_pem_slice(key) else { return Some("must hold a private key, PEM".to_owned()) };
    match CertifiedKey::from_der(certificates, key, &aws_lc_rs::default_provider()) {
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Some("must be the key of the certificate in `cert_file`: it belongs to another certificate".to_owned())
        }
        Err(error) => Some(format!("must be a key that can serve with `cert_file`: {error}")),
        Ok(_) => None,
    }
}
