//! How the values that a fault found are shown.

/// How a text is shown, by its key's `x-shown`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Shown {
    Written,
    /// A URL without the parts that may be a credential. A text that is not a URL may be another form of connection
    /// string with a password, or a mistyped URL: it is not shown.
    Url,
    /// [`Self::Url`] with the path, because it is public and distinguishes the URLs.
    Location,
    /// The name of a file with a secret: an absolute path, or one that begins with a dot. Any other text may be the
    /// secret itself.
    SecretFile,
}

impl Shown {
    pub(super) fn named(keyword: &str) -> Option<Self> {
        match keyword {
            "text" => Some(Self::Written),
            "url" => Some(Self::Url),
            "location" => Some(Self::Location),
            "secret_file" => Some(Self::SecretFile),
            _ => None,
        }
    }

    /// Whether this text is the name of a file and not its content.
    pub(super) fn is_file_name(text: &str) -> bool {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'.' | b'_' | b'-');
        ["/", "./", "../"].iter().any(|start| text.starts_with(start)) && text.bytes().all(is_plain)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::config::fault::KeyPath;
    use crate::config::schema::{Schema, schema};

    #[test]
    fn every_mark_is_one_of_the_known() {
        fn walk(value: &Value, found: &mut usize) {
            if let Some(mark) = value.get("x-shown") {
                assert!(mark.as_str().and_then(Shown::named).is_some(), "{mark}");
                assert!(value.get("writeOnly").is_none(), "a secret is shown: {value}");
                *found += 1;
            }
            match value {
                Value::Object(map) => map.values().for_each(|value| walk(value, found)),
                Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
                _ => {}
            }
        }
        let mut found = 0;
        walk(&schema(), &mut found);
        assert!(found > 50, "{found}");
    }

    #[test]
    fn a_key_that_is_not_marked_is_not_shown() {
        let (schema, root) = (Schema::new(), KeyPath::root());
        let issuer = root.key("issuers").index(0);
        let redis = root.key("revocation").key("redis");
        let digest = root.key("admin").key("keys").index(0).key("sha256");
        for hidden in [
            root.key("name"),
            redis.key("passphrase"),
            redis.key("url").key("x"),
            issuer.key("introspection").key("client_assertion"),
            issuer.key("keys").key("jwks").key("name"),
            root.key("api_keys").key("keys").index(0),
            digest.clone(),
        ] {
            assert_eq!(schema.shown(&hidden), None, "{hidden}");
        }
        assert_eq!(schema.shown(&issuer.key("name")), Some(Shown::Written));
        assert_eq!(schema.shown(&issuer.key("issuer").index(1)), Some(Shown::Location));
        assert_eq!(schema.shown(&root.key("identity").key("headers").key("x-any")), Some(Shown::Written));
        for secret in [redis.key("password"), issuer.key("keys").key("jwks").key("keys").index(0), digest] {
            assert!(schema.is_secret(&secret), "{secret}");
        }
        assert!(!schema.is_secret(&redis.key("password_file")) && !schema.is_secret(&issuer.key("name")));
    }
}
