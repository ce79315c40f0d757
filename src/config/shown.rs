//! Which values a fault may show. A text is not shown unless its key is listed: a new secret stays hidden
//! whatever its name is.

use super::fault::{KeyPath, Step};

/// How a value is shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shown {
    Written,
    /// Without what may be a credential. A text that is not a URL may be another form of connection string,
    /// password and all, or a URL that was mistyped where it matters: it is not shown.
    Url,
    /// As [`Self::Url`], with the path: it is published, and told apart by it.
    Location,
    /// The name of a file that holds a secret: an absolute one, or one that begins with a dot. Any other text may be
    /// the secret itself.
    SecretFile,
}

impl Shown {
    /// Whether this text is the name of a file and not what it should hold.
    pub(super) fn is_file_name(text: &str) -> bool {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-');
        ["/", "./", "../"].iter().any(|start| text.starts_with(start)) && text.bytes().all(is_plain)
    }
}

/// The keys, without the numbers of list items; `*` is any key of a map.
const TEXTS: &[&str] = &[
    "admin.keys.may",
    "api_keys.header",
    "api_keys.keys.domains",
    "api_keys.keys.expires",
    "api_keys.keys.platforms",
    "api_keys.platform_header",
    "errors.realm",
    "identity.headers.*",
    "forward_auth.cache",
    "identity.payload.audience",
    "identity.payload.header",
    "issuers.algorithms",
    "issuers.audiences",
    "issuers.backchannel_logout.audiences",
    "issuers.claims.*",
    "issuers.keys.jwks_file",
    "issuers.name",
    "issuers.token_types",
    "listen.admin",
    "listen.check",
    "listen.http",
    "listen.mode",
    "listen.tls.cert_file",
    "listen.tls.client_ca_file",
    "resource.scopes",
    "revocation.embedded.path",
    "revocation.redis.adopt",
    "revocation.redis.ca_file",
    "revocation.redis.key_prefix",
    "rules",
    "rules.match.hosts",
    "rules.match.mcp.methods",
    "rules.match.mcp.tools",
    "rules.match.methods",
    "rules.match.path",
    "rules.match.path_prefix",
    "rules.match.path_regex",
    "rules.name",
    "rules.require.acr",
    "rules.require.audience",
    "rules.require.claims.*",
    "rules.require.issuers",
    "rules.require.scopes",
    "signals.transmitters.audience",
    "signals.transmitters.keys.jwks_file",
    "signals.transmitters.target_issuer",
    "token.from.cookie",
    "token.from.header",
    "token.from.query",
    "token.from.scheme",
];

const SECRET_FILES: &[&str] = &[
    "identity.payload.sign.key_file",
    "issuers.introspection.client_secret_file",
    "issuers.keys.secret_file",
    "listen.tls.key_file",
    "revocation.redis.password_file",
    "signals.transmitters.keys.secret_file",
    "signals.transmitters.poll.token_file",
    "signals.transmitters.push.token_file",
    "signals.transmitters.stream.token_file",
    "telemetry.replay_alarm.token_file",
];

const LOCATIONS: &[&str] = &[
    "issuers.issuer",
    "issuers.keys.jwks_url",
    "resource.identifier",
    "signals.transmitters.issuer",
    "signals.transmitters.keys.jwks_url",
];

const URLS: &[&str] = &[
    "issuers.introspection.url",
    "listen.cors_origins",
    "resource.documentation",
    "revocation.redis.url",
    "signals.transmitters.poll.url",
    "signals.transmitters.stream.push_url",
    "telemetry.otlp.endpoint",
    "telemetry.replay_alarm.url",
];

/// How the value of a key is shown, if its key alone decides that.
pub(super) fn by_key(path: &KeyPath) -> Option<Shown> {
    let keys = || {
        path.steps().iter().filter_map(|step| match step {
            Step::Key(name) => Some(name.as_str()),
            Step::Index(_) => None,
        })
    };
    let is = |listed: &&str| {
        let mut keys = keys();
        listed.split('.').all(|part| keys.next().is_some_and(|key| part == "*" || part == key)) && keys.next().is_none()
    };
    let lists =
        [(TEXTS, Shown::Written), (SECRET_FILES, Shown::SecretFile), (LOCATIONS, Shown::Location), (URLS, Shown::Url)];
    lists.into_iter().find(|(list, _)| list.iter().any(&is)).map(|(_, form)| form)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::schema::Schema;

    /// The paths of a listed key, with every list as its first item.
    fn paths(schema: &Schema, listed: &str) -> Vec<KeyPath> {
        let item = |path: KeyPath| if schema.is_list(&path) { vec![path.index(0), path] } else { vec![path] };
        listed.split('.').fold(vec![KeyPath::root()], |paths, part| {
            paths.iter().flat_map(|path| item(path.key(if part == "*" { "user_id" } else { part }))).collect()
        })
    }

    #[test]
    fn every_listed_key_is_a_key_of_the_file() {
        let schema = Schema::new();
        for listed in [TEXTS, SECRET_FILES, LOCATIONS, URLS].into_iter().flatten() {
            let types = ["string", "array", "object", "number"];
            let known = paths(&schema, listed).iter().any(|path| types.iter().any(|name| schema.accepts(path, name)));
            assert!(known, "{listed}");
        }
    }

    #[test]
    fn a_key_that_is_not_listed_is_not_shown() {
        let root = KeyPath::root();
        let issuer = root.key("issuers").index(0);
        for hidden in [
            root.key("name"),
            root.key("revocation").key("redis").key("passphrase"),
            root.key("revocation").key("redis").key("url").key("x"),
            issuer.key("introspection").key("client_assertion"),
            issuer.key("keys").key("jwks").key("name"),
            root.key("api_keys").key("keys").index(0),
            root.key("admin").key("keys").index(0).key("sha256"),
        ] {
            assert_eq!(by_key(&hidden), None, "{hidden}");
        }
        assert_eq!(by_key(&issuer.key("name")), Some(Shown::Written));
        assert_eq!(by_key(&issuer.key("issuer").index(1)), Some(Shown::Location));
    }
}
