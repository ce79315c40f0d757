//! The address of Redis and the timeouts; a password in it is never shown.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use fred::types::config::{Config, TlsConnector};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};

use super::Adopt;
#[cfg(doc)]
use super::RedisLedger;

/// A Redis: its place, the credentials, and what a write there waits for.
#[derive(Clone)]
pub struct Redis {
    /// `SCHEME://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`, with a scheme of
    /// [`Redis::SCHEMES`]. Sentinel: `?sentinelServiceName=NAME&node=HOST:PORT…` (and
    /// `sentinelUsername`, `sentinelPassword`); Cluster: `?node=HOST:PORT…`; `redis+unix:///PATH?db=N`.
    pub url: String,
    /// The ACL user, if the URL does not have one.
    pub username: Option<String>,
    /// Its password, if the URL does not have one.
    pub password: Option<SecretString>,
    /// PEM certificates that the TLS schemes trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The prefix of every key; at most [`Redis::MAX_PREFIX`] bytes, without `{` and `}`.
    pub key_prefix: String,
    /// A write counts when this many replicas confirm it (WAIT); 0: no wait.
    pub min_replicas: u32,
}

/// How a [`RedisLedger`] uses its Redis.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    pub server: Redis,
    /// Keys of another service that revoke as well.
    pub adopt: Option<Adopt>,
    /// Accept a store that may evict revocations when its memory is full.
    pub allow_eviction: bool,
    /// A key that others keep changing gets its value later than its entry is in the log: entries that are written in one
    /// go wait for none.
    pub defers_keys: bool,
    /// The time for which this instance may need an entry of the log, see [`RedisLedger::retain_for`].
    pub retention: Duration,
    /// The longest time for which a token is accepted after its `exp`.
    pub leeway: Duration,
    /// Connecting, TLS, authentication and discovery together.
    pub connect_deadline: Duration,
    /// The deadline of one command or transaction.
    pub command_deadline: Duration,
    /// The deadline of one append, including its retries on new connections.
    pub write_deadline: Duration,
    /// The deadline of one lookup, including connecting.
    pub lookup_deadline: Duration,
    /// The wait of an idle read of the log; the age of an idle view is at most about this plus 110 ms.
    pub block: Duration,
}

impl RedisConfig {
    /// The defaults for a store.
    #[must_use]
    pub fn new(server: impl Into<Redis>) -> Self {
        Self {
            server: server.into(),
            adopt: None,
            allow_eviction: false,
            retention: Duration::from_secs(24 * 3600 + 30),
            defers_keys: false,
            leeway: Duration::from_secs(30),
            connect_deadline: Duration::from_secs(1),
            command_deadline: Duration::from_millis(500),
            write_deadline: Duration::from_secs(1),
            lookup_deadline: Duration::from_millis(100),
            block: Duration::from_millis(400),
        }
    }
}

/// The defaults for a store at this URL.
impl<Url: Into<String>> From<Url> for Redis {
    fn from(url: Url) -> Self {
        Self {
            url: url.into(),
            username: None,
            password: None,
            ca_file: None,
            key_prefix: "doorward:".to_owned(),
            min_replicas: 0,
        }
    }
}

impl Eq for Redis {}

impl PartialEq for Redis {
    fn eq(&self, other: &Self) -> bool {
        let password = |server: &Self| server.password.as_ref().map(|password| password.expose_secret().to_owned());
        self.url == other.url
            && self.username == other.username
            && password(self) == password(other)
            && self.ca_file == other.ca_file
            && self.key_prefix == other.key_prefix
            && self.min_replicas == other.min_replicas
    }
}

impl Redis {
    pub const SCHEMES: [&'static str; 7] =
        ["redis", "rediss", "redis-sentinel", "rediss-sentinel", "redis-cluster", "rediss-cluster", "redis+unix"];
    /// The longest prefix, in bytes: every key begins with it.
    pub const MAX_PREFIX: usize = 64;

    /// Checks the configuration without contacting the store; reads the CA file.
    pub fn validate(&self) -> Result<(), RedisConfigError> {
        self.plain_client()?;
        self.ca_file.iter().try_for_each(|_| self.connector().map(drop))
    }

    pub(super) fn client(&self) -> Result<Config, RedisConfigError> {
        let mut client = self.plain_client()?;
        if self.uses_tls() {
            client.tls = Some(self.connector()?.into());
        }
        Ok(client)
    }

    /// The location of the server for logs: its host and port, or the socket's path; no user, no password.
    #[must_use]
    pub fn place(&self) -> String {
        let url = url::Url::parse(&self.url).ok();
        let place = url.and_then(|url| match (url.host_str().filter(|host| !host.is_empty()), url.port()) {
            (Some(host), Some(port)) => Some(format!("{host}:{port}")),
            (Some(host), None) => Some(host.to_owned()),
            (None, _) => Some(url.path().to_owned()).filter(|path| path.starts_with('/')),
        });
        place.unwrap_or_else(|| "Redis".to_owned())
    }

    /// Everything that tells one store from another in this configuration, the same in each spelling; no user, no
    /// password, and not whether TLS protects the connection.
    #[must_use]
    pub fn identity(&self) -> String {
        let Ok(url) = url::Url::parse(&self.url) else { return self.key_prefix.clone() };
        let named = |wanted: &'static str| {
            url.query_pairs().filter(move |(name, _)| name == wanted).map(|(_, value)| value.into_owned())
        };
        let service = named("sentinelServiceName").next().unwrap_or_default();
        let (of_path, is_socket) = (url.path().trim_matches('/').to_owned(), self.scheme() == "redis+unix");
        let database = if is_socket { named("db").next().unwrap_or_default() } else { of_path };
        let database = database.parse().unwrap_or(0_u8);
        let places = if is_socket {
            url.path().to_owned()
        } else {
            let port = url.port().unwrap_or(if service.is_empty() { 6379 } else { 26_379 });
            let own = url.host_str().map(|host| format!("{host}:{port}"));
            let mut places: Vec<_> = own.into_iter().chain(named("node")).map(|place| same_host(&place)).collect();
            places.sort();
            places.join(",")
        };
        format!("{places} {service} {database} {}", self.key_prefix)
    }

    fn scheme(&self) -> &str {
        self.url.split_once("://").map(|(scheme, _)| scheme).unwrap_or_default()
    }

    fn uses_tls(&self) -> bool {
        self.scheme().starts_with("rediss")
    }

    /// The library's configuration without TLS.
    fn plain_client(&self) -> Result<Config, RedisConfigError> {
        let prefix = &self.key_prefix;
        let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'{' | b'}');
        if prefix.len() > Self::MAX_PREFIX || !prefix.bytes().all(plain) {
            return Err(RedisConfigError::Prefix);
        }
        let scheme = self.scheme();
        if !Self::SCHEMES.contains(&scheme) {
            return Err(RedisConfigError::Scheme);
        }
        if self.ca_file.is_some() && !self.uses_tls() {
            return Err(RedisConfigError::CaWithoutTls);
        }
        let database = self.check_query()?;
        // For a TLS scheme the library would load the system's certificates, instead of the configured
        // ones.
        let plain_url = if self.uses_tls() { self.url.replacen("rediss", "redis", 1) } else { self.url.clone() };
        // Its error repeats only an invalid node address or number of the URL.
        let mut client = Config::from_url(&plain_url).map_err(|error| RedisConfigError::Url(error.details().into()))?;
        client.database = client.database.or(database);
        client.username = client.username.or_else(|| self.username.clone());
        client.password =
            client.password.or_else(|| self.password.as_ref().map(|text| text.expose_secret().to_owned()));
        if client.username.is_some() {
            // Without a password the library would not send the user, and connect as the default user.
            client.password.get_or_insert_default();
        }
        Ok(client)
    }

    /// The library ignores unknown parameters, and a database where it expects none.
    fn check_query(&self) -> Result<Option<u8>, RedisConfigError> {
        let refused = |cause: String| RedisConfigError::Url(cause.into());
        let url = url::Url::parse(&self.url).map_err(|error| refused(error.to_string()))?;
        let known: &[&str] = match self.scheme().trim_start_matches("rediss").trim_start_matches("redis") {
            "-sentinel" => &["sentinelServiceName", "node", "sentinelUsername", "sentinelPassword"],
            "-cluster" => &["node"],
            "+unix" => &["db"],
            _ => &[],
        };
        if url.query_pairs().any(|(name, _)| !known.contains(&&*name)) {
            let known =
                if known.is_empty() { "nothing (a database is the path: `/4`)".to_owned() } else { known.join(", ") };
            return Err(refused(format!("its query may name {known}")));
        }
        if known.contains(&"sentinelServiceName")
            && !url.query_pairs().any(|(name, value)| name == "sentinelServiceName" && !value.is_empty())
        {
            return Err(refused("add ?sentinelServiceName=NAME".to_owned()));
        }
        if self.scheme().ends_with("cluster") && !matches!(url.path(), "" | "/" | "/0") {
            return Err(refused("a cluster has the database 0 alone".to_owned()));
        }
        let database = url.query_pairs().find(|(name, _)| name == "db").map(|(_, number)| number.parse());
        database.transpose().map_err(|_| refused("`db` must be the number of a database, such as 4".to_owned()))
    }

    fn connector(&self) -> Result<TlsConnector, RedisConfigError> {
        let Some(path) = &self.ca_file else {
            return TlsConnector::default_rustls()
                .map_err(|error| RedisConfigError::SystemCertificates(error.details().into()));
        };
        let bad = |cause: String| RedisConfigError::CaFile { path: path.clone(), cause: cause.into() };
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| bad(error.to_string()))? {
            let certificate = certificate.map_err(|error| bad(error.to_string()))?;
            roots.add(certificate).map_err(|error| bad(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(bad("the file has no certificate".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| bad(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(tls.into())
    }
}

/// A host and port in the one spelling of a name: lower case, without the dot at its end.
fn same_host(place: &str) -> String {
    place.to_ascii_lowercase().replace(".:", ":")
}

/// Without the user, the password, and the query, which may have those of a sentinel.
impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.url.split_once("://").unwrap_or_default();
        let place = rest.rsplit_once('@').map_or(rest, |(_, place)| place).split('?').next().unwrap_or_default();
        f.debug_struct("Redis")
            .field("url", &format_args!("{scheme}://{place}"))
            .field("ca_file", &self.ca_file)
            .field("key_prefix", &self.key_prefix)
            .field("min_replicas", &self.min_replicas)
            .finish_non_exhaustive()
    }
}

/// The fault of a [`Redis`]; never shows the URL, which may contain a password.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RedisConfigError {
    #[error("url: the scheme must be one of {}", Redis::SCHEMES.join(", "))]
    Scheme,
    #[error("url: {0}")]
    Url(Box<str>),
    #[error("key_prefix: at most {} visible ASCII characters, without braces", Redis::MAX_PREFIX)]
    Prefix,
    #[error("ca_file: needs a TLS scheme (rediss, rediss-sentinel, rediss-cluster)")]
    CaWithoutTls,
    #[error("ca_file {}: {cause}", path.display())]
    CaFile { path: PathBuf, cause: Box<str> },
    #[error("load the system's certificates: {0}; or give a ca_file")]
    SystemCertificates(Box<str>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(url: &str, expected: Result<(), &str>) {
        let result = Redis::from(url).validate().map_err(|error| error.to_string());
        match (result, expected) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(part)) => {
                assert!(error.contains(part), "{url}: {error}");
                assert!(!error.contains("s3cret"), "{url}: {error} shows the password");
            }
            (result, expected) => panic!("{url}: {result:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn urls_are_checked() {
        for good in [
            "redis://127.0.0.1:6379/0",
            "redis://127.0.0.1",
            "redis://user:s3cret@redis.example:6380/2",
            "redis://:s3cret@redis.example",
            "redis-sentinel://s1:26379/0?sentinelServiceName=main&node=s2:26379",
            "redis-cluster://:s3cret@n1:7000?node=n2:7000",
            "redis+unix:///run/redis.sock",
            "redis+unix://:s3cret@h/run/redis.sock?db=4",
        ] {
            check(good, Ok(()));
        }
        for (bad, part) in [
            ("", "scheme"),
            ("127.0.0.1:6379", "scheme"),
            ("http://:s3cret@127.0.0.1", "scheme"),
            ("redis://:s3cret@", "host"),
            ("redis://:s3cret@h:99999", "port"),
            ("redis://:s3cret@h/x", "url"),
            ("redis-sentinel://:s3cret@s1", "sentinel"),
            ("redis-sentinel://:s3cret@s1?sentinelServiceName=", "sentinel"),
            ("redis-sentinel://s1?sentinelServiceName=a&sentinelPasword=s3cret", "its query may name"),
            ("redis-cluster://:s3cret@h:1?node=bad", "bad"),
            ("redis-cluster://:s3cret@h:1/4", "database 0"),
            ("redis://:s3cret@h?db=4", "its query may name nothing"),
            ("redis+unix:///run/redis.sock?db=four", "`db` must be"),
        ] {
            check(bad, Err(part));
        }
    }

    #[test]
    fn users_and_databases_are_the_same_for_every_kind_of_url() {
        for url in ["redis://ann:s3cret@h/4", "redis+unix://ann:s3cret@h/run/r.sock?db=4"] {
            let client = Redis::from(url).client().unwrap();
            let found = (client.username.as_deref(), client.password.as_deref(), client.database);
            assert_eq!(found, (Some("ann"), Some("s3cret"), Some(4)));
        }
        let by = |url: &str, username: Option<&str>, password: Option<&str>| {
            let (username, password) = (username.map(Into::into), password.map(Into::into));
            let client = Redis { username, password, ..Redis::from(url) }.client().unwrap();
            (client.username.unwrap_or_default(), client.password)
        };
        let password = Some("s3cret".to_owned());
        assert_eq!(by("redis+unix:///run/r.sock", Some("ann"), Some("s3cret")), ("ann".to_owned(), password.clone()));
        assert_eq!(by("redis://h", None, Some("s3cret")), (String::new(), password));
        for nopass in [by("redis://h", Some("ann"), None), by("redis://ann@h", None, None)] {
            assert_eq!(nopass, ("ann".to_owned(), Some(String::new())), "else it would be `default`");
        }
        assert_eq!(by("redis://h", None, None), (String::new(), None));
    }

    #[test]
    fn debug_shows_the_place_and_not_the_password() {
        let config = Redis::from("redis-sentinel://user:s3cret@h:1/2?sentinelPassword=s3cret");
        let shown = format!("{config:?}");
        assert!(shown.contains("redis-sentinel://h:1/2") && !shown.contains("s3cret"), "{shown}");
        let identity =
            Redis::from("redis-sentinel://u:s3cret@h:1?sentinelServiceName=a&sentinelPassword=s3cret").identity();
        assert!(identity.contains("h:1") && identity.contains(" a ") && !identity.contains("s3cret"), "{identity}");
    }

    #[test]
    fn a_store_has_one_identity_in_each_spelling() {
        let identity = |url: &str| Redis::from(url).identity();
        for (one, other) in [
            ("redis://h", "redis://h:6379/0"),
            ("redis://h", "redis://H.:6379/"),
            ("redis://h", "rediss://ann:s3cret@h"),
            ("redis://[::1]", "redis://[0:0:0:0:0:0:0:1]:6379"),
            ("redis-cluster://a:1?node=b:2", "redis-cluster://b:2?node=A:1"),
            ("redis-sentinel://a?sentinelServiceName=m", "redis-sentinel://a:26379/0?sentinelServiceName=m"),
            ("redis+unix:///run/r.sock", "redis+unix://ann:s3cret@h/run/r.sock?db=0"),
        ] {
            assert_eq!(identity(one), identity(other));
        }
        for (one, other) in [
            ("redis://h/1", "redis://h/2"),
            ("redis://h:1", "redis://h:2"),
            ("redis://h", "redis://g"),
            ("redis-sentinel://a?sentinelServiceName=m", "redis-sentinel://a?sentinelServiceName=n"),
            ("redis+unix:///run/r.sock?db=1", "redis+unix:///run/r.sock"),
            ("redis+unix:///run/r.sock", "redis+unix:///run/s.sock"),
        ] {
            assert_ne!(identity(one), identity(other));
        }
        let other = Redis { key_prefix: "other:".to_owned(), ..Redis::from("redis://h") };
        assert_ne!(other.identity(), identity("redis://h"));
    }

    #[test]
    fn other_settings_are_checked() {
        let bad = |change: fn(&mut Redis)| {
            let mut config = Redis::from("redis://h");
            change(&mut config);
            config.validate().unwrap_err().to_string()
        };
        assert!(bad(|c| c.key_prefix = "a{b}".into()).starts_with("key_prefix"));
        assert!(bad(|c| c.ca_file = Some("/x".into())).starts_with("ca_file: needs"));
        let missing = bad(|c| {
            c.url = "rediss://h".into();
            c.ca_file = Some("/does/not/exist".into());
        });
        assert!(missing.starts_with("ca_file /does/not/exist"), "{missing}");
    }
}
