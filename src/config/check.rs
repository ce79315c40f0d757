//! Checks beyond the schema that several sections share.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use url::{Host, Url};

use super::fault::{Fault, KeyPath};
use super::file::Digest;
use super::shown::Shown;
use super::source::{Blamed, Source};
use crate::authz::api_key::{KeyDigest, digest_of};
use crate::authz::claims::IssuerName;
use crate::authz::signing::UnusableKey;
use crate::sources::files::{Stamp, Stamps};
use crate::sources::http::Authorities;

/// Collects the faults while the sections are read; each reader continues with a harmless value.
pub(super) struct Check<'a> {
    source: &'a Source,
    /// Paths that violate the schema; a second fault for the same path would be confusing.
    blamed: Blamed,
    /// Paths with a semantic fault: the first one is reported, its consequences are not.
    reported: HashSet<KeyPath>,
    /// The folder of relative file names.
    folder: &'a Path,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Fault>,
    /// Every file that was read or named, with its state before.
    pub(super) files: Stamps,
}

/// The largest secret, key or key set that is read from a file, in bytes.
const MAX_FILE: u64 = 1 << 20;

impl<'a> Check<'a> {
    pub(super) fn new(source: &'a Source, blamed: Blamed, folder: &'a Path) -> Self {
        Self {
            source,
            blamed,
            reported: HashSet::new(),
            folder,
            faults: Vec::new(),
            warnings: Vec::new(),
            files: Stamps::new(),
        }
    }

    pub(super) fn fault(&mut self, at: &KeyPath, message: impl Into<String>) {
        if !self.blamed.touches(at) && self.reported.insert(at.clone()) {
            let fault = self.source.fault(at, message);
            self.faults.push(fault);
        }
    }

    /// A fault of the key itself, not of its value.
    pub(super) fn key_fault(&mut self, at: &KeyPath, message: impl Into<String>) {
        if !self.blamed.touches(at) && self.reported.insert(at.clone()) {
            let fault = self.source.fault(at, message);
            self.faults.push(Fault { value: None, ..fault });
        }
    }

    pub(super) fn warn(&mut self, at: &KeyPath, message: impl Into<String>) {
        let warning = self.source.fault(at, message);
        self.warnings.push(warning);
    }

    /// Whether the form of a value or a part of it is faulty, so that conclusions from it would be wrong.
    pub(super) fn is_blamed(&self, at: &KeyPath) -> bool {
        self.blamed.touches(at)
    }

    /// Whether the value was written, by file or environment.
    pub(super) fn is_written(&self, at: &KeyPath) -> bool {
        self.source.get(at).is_some_and(|value| !value.is_null())
    }

    /// A short name for metrics labels, Redis keys and logs.
    pub(super) fn name(&mut self, at: &KeyPath, name: &str) -> bool {
        let fits = IssuerName::parse(name).is_some();
        if !fits {
            let max = IssuerName::MAX_LEN;
            self.fault(at, format!("must be a name of `a` to `z`, `0` to `9` and `-`, at most {max} long"));
        }
        fits
    }

    /// Text that is compared with claims: printable and not empty.
    pub(super) fn text(&mut self, at: &KeyPath, text: &str) {
        let fits = (1..=512).contains(&text.len()) && !text.chars().any(|c| c.is_control() || c.is_whitespace());
        if !fits {
            self.fault(at, "must be text without spaces, not empty and at most 512 bytes long");
        }
    }

    /// A text of a list that is compared literally: a wildcard is a fault.
    pub(super) fn no_wildcard(&mut self, at: &KeyPath, text: &str, cure: &str) {
        if text.contains('*') || text.eq_ignore_ascii_case("any") {
            self.fault(at, format!("is compared literally, not as a pattern; {cure}"));
        }
    }

    /// A list must not be empty: an empty list could mean all or nothing.
    pub(super) fn list<T>(&mut self, at: &KeyPath, items: &[T], leave_out: &str) {
        if items.is_empty() {
            self.fault(at, format!("must not be empty{leave_out}"));
        }
    }

    /// An absolute URL: https, or http to this host or with permission, which `insecure: true` beside it gives.
    pub(super) fn url(&mut self, at: &KeyPath, text: &str, insecure: bool) {
        let cure = "must be https (or set `insecure: true`, with which an attacker on the network can forge it)";
        self.url_or(at, text, insecure, cure);
    }

    /// An absolute URL: https, or http to this host.
    pub(super) fn https_url(&mut self, at: &KeyPath, text: &str) {
        self.url_or(
            at,
            text,
            false,
            "must be https; http is for this host alone, such as `http://127.0.0.1:10000/mcp`",
        );
    }

    /// `cure`: the fault of http.
    fn url_or(&mut self, at: &KeyPath, text: &str, insecure: bool, cure: &str) {
        let Ok(url) = Url::parse(text) else {
            return self.fault(at, "must be a URL such as `https://auth.example.com/jwks`");
        };
        let loopback = match url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if !url.username().is_empty() || url.password().is_some() {
            return self.fault(at, "must not contain a user or a password: URLs appear in logs");
        }
        if url.fragment().is_some() {
            return self.fault(at, "must not have a fragment (`#…`)");
        }
        match url.scheme() {
            "https" => {}
            "http" if loopback || insecure => {}
            "http" => self.fault(at, cure),
            _ => self.fault(at, "must be a https URL"),
        }
    }

    /// The path of a file, from the folder of the configuration unless absolute.
    pub(super) fn file(&mut self, at: &KeyPath, name: &str) -> PathBuf {
        if name.is_empty() {
            self.fault(at, "must be the name of a file");
        }
        let path = self.folder.join(name);
        self.files.entry(path.clone()).or_insert_with(|| Stamp::of(&path));
        path
    }

    /// [`Check::file`] for a file that Doorward itself writes and therefore does not watch.
    pub(super) fn resolve(&mut self, at: &KeyPath, name: &str) -> PathBuf {
        let path = self.file(at, name);
        self.files.remove(&path);
        path
    }

    /// The path and the contents of a file; a fault has the reason if it cannot be read.
    pub(super) fn read(&mut self, at: &KeyPath, name: &str) -> (PathBuf, Option<Vec<u8>>) {
        let path = self.file(at, name);
        if name.is_empty() {
            return (path, None);
        }
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
        let shown = path.display();
        let may_be_secret = self.source.shown(at) == Some(Shown::SecretFile) && !Shown::is_file_name(name);
        let message = match read {
            Err(error) if may_be_secret => {
                format!("must name a file with the secret, which must not be written here; cannot read it: {error}")
            }
            Err(error) => format!("cannot read {shown}: {error}"),
            Ok(0) => format!("the file {shown} is empty"),
            Ok(_) if bytes.len() as u64 > MAX_FILE => format!("the file {shown} is over {MAX_FILE} bytes"),
            Ok(_) => return (path, Some(bytes)),
        };
        self.fault(at, message);
        (path, None)
    }

    /// A secret in a file, without the newline that editors add.
    pub(super) fn secret_file(&mut self, at: &KeyPath, name: &str) -> (PathBuf, Option<Vec<u8>>) {
        let (path, bytes) = self.read(at, name);
        let Some(mut bytes) = bytes else { return (path, None) };
        let end = bytes.iter().rposition(|b| !matches!(b, b'\n' | b'\r')).map_or(0, |last| last + 1);
        bytes.truncate(end);
        if bytes.is_empty() {
            self.fault(at, format!("the file {} is empty", path.display()));
            return (path, None);
        }
        (path, Some(bytes))
    }

    /// A secret in `KEY`, or in the file that `KEY_file` names.
    pub(super) fn secret(
        &mut self,
        section: &KeyPath,
        key: &str,
        inline: Option<&String>,
        file: Option<&String>,
    ) -> Option<SecretString> {
        let (at, at_file) = (section.key(key), section.key(&format!("{key}_file")));
        match (inline, file) {
            (Some(_), Some(_)) => {
                self.fault(&at_file, format!("must not be written beside `{key}`"));
                None
            }
            (Some(secret), None) => {
                if secret.is_empty() {
                    self.fault(&at, "must not be empty");
                }
                Some(SecretString::from(secret.clone()))
            }
            (None, Some(file)) => {
                let (path, bytes) = self.secret_file(&at_file, file);
                let text = bytes.map(String::from_utf8)?;
                if text.is_err() {
                    self.fault(&at_file, format!("the file {} is not UTF-8 text", path.display()));
                }
                text.ok().map(SecretString::from)
            }
            (None, None) => None,
        }
    }

    /// The path of a PEM file with one of these sections.
    pub(super) fn pem_file(&mut self, at: &KeyPath, name: &str, label: &str) -> (PathBuf, Option<Vec<u8>>) {
        let (path, bytes) = self.read(at, name);
        let bytes = bytes.filter(|bytes| {
            let text = String::from_utf8_lossy(bytes);
            let fits = text.lines().any(|line| line.starts_with("-----BEGIN ") && line.contains(label));
            if !fits {
                self.fault(at, format!("the file {} has no PEM `{label}`", path.display()));
            }
            fits
        });
        (path, bytes)
    }

    /// The private key in a PEM file, as `read` takes it.
    pub(super) fn signing_key<T>(
        &mut self,
        at: &KeyPath,
        name: &str,
        read: impl FnOnce(&str) -> Result<T, UnusableKey>,
    ) -> Option<T> {
        let (path, pem) = self.pem_file(at, name, "PRIVATE KEY");
        let key = read(&String::from_utf8(pem?).ok()?);
        if key.is_err() {
            let file = path.display();
            self.fault(
                at,
                format!("the file {file} must have a PKCS #8 key of EC P-256, Ed25519 or RSA from 2048 bits, such as `openssl genpkey -algorithm ed25519` makes"),
            );
        }
        key.ok()
    }

    /// The `ca_file` of a section.
    pub(super) fn authorities(&mut self, section: &KeyPath, name: Option<&String>) -> Option<Authorities> {
        let at = section.key("ca_file");
        let (path, pem) = self.pem_file(&at, name?, "CERTIFICATE");
        let parsed = Authorities::parse(pem?);
        if parsed.is_err() {
            self.fault(&at, format!("the file {} has a certificate that cannot be used", path.display()));
        }
        parsed.ok()
    }

    /// The digest of a key, in hex.
    pub(super) fn digest(&mut self, at: &KeyPath, Digest(hex): &Digest) -> KeyDigest {
        let mut digest = KeyDigest::default();
        let nibble = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let read = hex.len() == 2 * digest.len()
            && digest.iter_mut().zip(hex.as_bytes().chunks(2)).all(|(byte, pair)| {
                let both = nibble(pair[0]).zip(nibble(pair[1]));
                both.map(|(high, low)| *byte = high << 4 | low).is_some()
            });
        if !read {
            self.fault(
                at,
                "must be 64 hex digits, as `doorward hash-key` prints them: never write the key itself into this file",
            );
        } else if digest == digest_of(b"") {
            self.fault(at, "is the SHA-256 of an empty text: an empty key would match");
        }
        digest
    }

    /// The name of a header that is read.
    pub(super) fn header(&mut self, at: &KeyPath, name: &str) -> String {
        if let Some(message) = header_fault(name) {
            self.fault(at, message);
        }
        name.to_ascii_lowercase()
    }
}

/// Why this cannot be a header field name (RFC 9110 section 5.1) of a request.
pub(super) fn header_fault(name: &str) -> Option<&'static str> {
    if name.starts_with(':') {
        Some("must not be a pseudo-header")
    } else if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        Some("must be a header name such as `x-user-id`")
    } else if HOP_BY_HOP.iter().any(|other| name.eq_ignore_ascii_case(other)) {
        Some("must not be a header that belongs to the connection")
    } else {
        None
    }
}

/// RFC 9110 section 7.6.1, with the additions of RFC 9113 section 8.2.2; `host` is `:authority`.
const HOP_BY_HOP: [&str; 12] = [
    "connection",
    "content-length",
    "host",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
