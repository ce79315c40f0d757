//! The store of revocations, and the greatest age of the view of them.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use url::Url;

use super::check::Check;
use super::fault::KeyPath;
use super::file::{
    AdoptFile, AdoptSetFile, List, Read, RedisFile, RelayFile, RelayServerFile, RevocationFile, StoreKind,
};
use crate::sources::ledger::{AdoptedKeys, Names, Redis, RedisConfigError};

/// The store of revocations, and the way in which they are read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Revocation {
    pub store: Store,
    pub list: List,
    pub read: Read,
    /// Accepts a Redis that may drop revocations.
    pub allow_eviction: bool,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Store {
    Embedded {
        /// `None`: in memory.
        path: Option<PathBuf>,
    },
    Redis {
        server: Redis,
        /// The revocation keys that an existing service writes.
        adopt: Option<AdoptedKeys>,
        /// The stores of the other regions, to which revocations are copied.
        relay: Vec<Redis>,
    },
}

pub(super) fn revocation(check: &mut Check<'_>, file: &RevocationFile) -> Revocation {
    let at = KeyPath::root().key("revocation");
    let store = match file.store {
        StoreKind::Embedded => Store::Embedded { path: embedded_path(check, &at, file) },
        StoreKind::Redis => {
            let (at, file) = (at.key("redis"), &file.redis);
            let server = redis(check, &at, &at.key("url"), file);
            let adopt = file.adopt.as_ref().and_then(|keys| adopt(check, &at.key("adopt"), keys));
            let relay = relay(check, &at.key("relay"), file, &server);
            Store::Redis { server, adopt, relay }
        }
    };
    let other = if file.store == StoreKind::Redis { "embedded" } else { "redis" };
    if check.is_written(&at.key(other)) {
        check.warn(&at.key(other), format!("has no effect: `revocation.store` is not `{other}`"));
    }
    if matches!(store, Store::Embedded { path: None }) {
        let message = "is missing: revocations are kept in memory only, and a restart loses every sign-out; write \
                       the name of a file, such as `/var/lib/doorward/revocations`";
        check.warn(&at.key("embedded").key("path"), message);
    }
    Revocation { store, list: file.list, read: file.read, allow_eviction: file.allow_eviction }
}

fn embedded_path(check: &mut Check<'_>, at: &KeyPath, file: &RevocationFile) -> Option<PathBuf> {
    let name = file.embedded.path.as_ref()?;
    let at = at.key("embedded").key("path");
    let path = check.resolve(&at, name);
    if path.is_dir() {
        check.fault(&at, format!("must be a file; {} is a folder", path.display()));
    } else if !path.parent().is_some_and(|folder| folder.as_os_str().is_empty() || folder.is_dir()) {
        check.fault(&at, format!("must be a file in an existing folder; {} does not exist", path.display()));
    }
    Some(path)
}

/// The stores of the other regions.
fn relay(check: &mut Check<'_>, at: &KeyPath, own: &RedisFile, here: &Redis) -> Vec<Redis> {
    let mut servers: Vec<Redis> = Vec::with_capacity(own.relay.len());
    for (index, file) in own.relay.iter().enumerate() {
        let at = at.index(index);
        let key_prefix = own.key_prefix.clone();
        let (url_at, file) = match file {
            RelayFile::Url(url) => (at.clone(), RedisFile { url: url.clone(), key_prefix, ..RedisFile::default() }),
            RelayFile::Server(file) => {
                let RelayServerFile { url, username, password, password_file, ca_file, key_prefix: other } =
                    (**file).clone();
                let key_prefix = other.unwrap_or(key_prefix);
                let more = RedisFile::default();
                let file = RedisFile { url, username, password, password_file, ca_file, key_prefix, ..more };
                (at.key("url"), file)
            }
        };
        let server = redis(check, &at, &url_at, &file);
        if server.identity() == here.identity() {
            check.fault(&url_at, "must be the Redis of another region; this is that of `revocation.redis.url`");
        } else if servers.iter().any(|other| other.identity() == server.identity()) {
            check.fault(&url_at, "must not be listed twice: its server, database and prefix are those of another one");
        }
        servers.push(server);
    }
    servers
}

fn redis(check: &mut Check<'_>, at: &KeyPath, url_at: &KeyPath, file: &RedisFile) -> Redis {
    let (url, in_url) = redis_url(check, url_at, &file.url);
    let (url_user, url_password) = in_url.unwrap_or_default();
    let mut password = check.secret(at, "password", file.password.as_ref(), file.password_file.as_ref());
    if let Some(url_password) = url_password {
        if file.password.is_some() || file.password_file.is_some() {
            check.fault(url_at, "must not contain a password beside `password` or `password_file`");
        }
        password = Some(url_password);
    }
    if url_user.is_some() && file.username.is_some() {
        check.fault(url_at, "must not contain a user beside `username`");
    }
    let ca_file = file.ca_file.as_ref().map(|name| check.pem_file(&at.key("ca_file"), name, "CERTIFICATE").0);
    let prefix_fits = file.key_prefix.len() <= 64
        && file
            .key_prefix
            .bytes()
            .all(|b| b.is_ascii_graphic() && !matches!(b, b'{' | b'}' | b'*' | b'?' | b'[' | b']' | b'\\'));
    if !prefix_fits {
        check.fault(
            &at.key("key_prefix"),
            "must be at most 64 printable ASCII bytes without spaces and any of `{}*?[]\\`",
        );
    }
    let server = Redis {
        url,
        username: file.username.clone().or(url_user),
        password,
        ca_file,
        key_prefix: file.key_prefix.clone(),
        min_replicas: file.min_replicas,
    };
    if let Err(error) = server.validate() {
        let (key, message) = match error {
            RedisConfigError::Url(cause) => ("url", cause.into()),
            RedisConfigError::Scheme => ("url", error.to_string()),
            RedisConfigError::Prefix => ("key_prefix", error.to_string()),
            RedisConfigError::CaWithoutTls => ("ca_file", "needs TLS: use `rediss://`".to_owned()),
            RedisConfigError::CaFile { cause, .. } => ("ca_file", cause.into()),
            RedisConfigError::SystemCertificates(_) => ("ca_file", error.to_string()),
        };
        let at = if key == "url" { url_at.clone() } else { at.key(key) };
        check.fault(&at, message);
    }
    server
}

type Credentials = (Option<String>, Option<SecretString>);

/// The URL without the user and the password in it, and these.
fn redis_url(check: &mut Check<'_>, at: &KeyPath, text: &str) -> (String, Option<Credentials>) {
    let nothing = (String::new(), None);
    let Some(mut url) = Url::parse(text).ok().filter(|url| Redis::SCHEMES.contains(&url.scheme())) else {
        check.fault(
            at,
            format!("must be a URL such as `redis://127.0.0.1:6379/0`, with the scheme {}", Redis::SCHEMES.join(", ")),
        );
        return nothing;
    };
    if url.scheme() == "redis+unix" {
        if !url.path().starts_with('/') || url.path() == "/" {
            check.fault(at, "must name a socket, such as `redis+unix:///run/redis.sock`");
        }
    } else {
        server(check, at, &url);
    }
    let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
    let user = Some(decode(url.username())).filter(|user| !user.is_empty());
    let password = url.password().map(|password| SecretString::from(decode(password)));
    // A URL without a host has neither.
    let cleared =
        user.is_none() && password.is_none() || url.set_username("").and_then(|()| url.set_password(None)).is_ok();
    if !cleared {
        return nothing;
    }
    (url.into(), Some((user, password)))
}

fn server(check: &mut Check<'_>, at: &KeyPath, url: &Url) {
    let database = url.path().trim_start_matches('/');
    if url.host_str().is_none_or(str::is_empty) {
        check.fault(at, "must name a host, such as `redis://127.0.0.1:6379/0`");
    } else if !database.is_empty() && database.parse::<u8>().is_err() {
        check.fault(at, "must end with the number of a database, such as `/0`");
    }
}

fn adopt(check: &mut Check<'_>, at: &KeyPath, file: &AdoptFile) -> Option<AdoptedKeys> {
    let fits = |key: &str| key.len() <= 128 && !key.chars().any(char::is_control);
    let template = match file {
        AdoptFile::Set(AdoptSetFile { set }) if fits(set) && !set.is_empty() => {
            return Some(AdoptedKeys::Set(set.clone()));
        }
        AdoptFile::Set(_) => {
            check.fault(&at.key("set"), "must be the name of a key, at most 128 bytes long");
            return None;
        }
        AdoptFile::Keys(template) => template,
    };
    let placeholders = [("{jti}", Names::TokenId), ("{token}", Names::Token), ("{token_sha256}", Names::TokenSha256)];
    let count: usize = placeholders.iter().map(|(placeholder, _)| template.matches(placeholder).count()).sum();
    let split = placeholders.iter().find_map(|(placeholder, names)| {
        let (before, after) = template.split_once(placeholder)?;
        Some(AdoptedKeys::Each { before: before.to_owned(), after: after.to_owned(), names: *names })
    });
    let keys = split.filter(|_| count == 1 && fits(template));
    if keys.is_none() {
        check.fault(
            at,
            "must be the name of a key with `{jti}`, `{token}` or `{token_sha256}` in it once, such as \
             `blacklist:{jti}`, or `{set: KEY}`",
        );
    }
    keys
}
